# The image of Dataflow's workers, and of DOCKER environments: bertline's with Beam's boot program. Not built here.
#   docker build -f pipeline/deploy/beam/dataflow.Dockerfile --build-arg BERTLINE=REGISTRY/bertline:0.1.0 \
#     -t REGION-docker.pkg.dev/PROJECT/bertline/beam:0.1.0 pipeline/deploy/beam
ARG BERTLINE
FROM apache/beam_python3.11_sdk:2.77.0 AS beam

# hadolint ignore=DL3006
FROM ${BERTLINE}
COPY --from=beam /opt/apache/beam /opt/apache/beam
ENTRYPOINT ["/opt/apache/beam/boot"]

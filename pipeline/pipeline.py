"""The line: which part reads what of which. Only the wiring is here; runners decide where it runs."""

from __future__ import annotations

from collections.abc import Sequence

from ml_metadata.proto import metadata_store_pb2 as mlmd
from tfx.dsl.components.base.base_node import BaseNode
from tfx.orchestration.pipeline import Pipeline

from bertline.pipeline import cache_keys, parts, stages
from bertline.pipeline.config import Config
from bertline.pipeline.facts import RunFacts
from bertline.pipeline.parts import Settings, Task
from bertline.pipeline.stages import Node


def create_pipeline(
    config: Config,
    facts: RunFacts,
    settings: Settings,
    *,
    pipeline_root: str,
    metadata: mlmd.ConnectionConfig | None = None,
    before: Sequence[BaseNode] = (),
) -> Pipeline:
    """Wires the stages. The runner sets Beam's arguments, since here they would key the cache.

    Args:
        config: the task; it decides which stages there are, and what their graphs hold.
        facts: what the runner found out.
        settings: what the stages get when they run.
        pipeline_root: folder of the artifacts.
        metadata: the connection to the metadata store; None where the cluster keeps one.
        before: the runner's own stages, which come first.

    Raises:
        LookupError: a stage has no row in the table of stages.
    """
    task = Task(config, facts, settings)
    rows = parts.rows(task)
    start = parts.start(task, rows)
    trained = parts.trained(task, rows, start)
    candidate = parts.candidate(task, rows, start, trained)
    judgement = parts.judgement(task, rows, start, trained, candidate)
    release = parts.release(task, rows, start, trained, candidate, judgement)
    reports = parts.reports(task, rows, start, candidate, judgement, release)
    return Pipeline(
        pipeline_name=config.name,
        pipeline_root=pipeline_root,
        components=_keyed(
            [*before, *rows, *start.nodes, *trained.nodes, *candidate.nodes, *judgement, *release, *reports], facts
        ),
        enable_cache=True,
        metadata_connection_config=metadata,
    )


def _keyed(nodes: list[BaseNode], facts: RunFacts) -> list[BaseNode]:
    """The nodes, each of them known to the table of stages, with the keys of their results in the cache."""
    stages.check_listed(node.id for node in nodes)
    for node in nodes:
        if node.id in cache_keys.KEYED:
            # No stage reads it, but the cache does, here and on a cluster.
            node.spec.exec_properties["cache_key"] = facts.cache_keys[Node(node.id)]
    return nodes

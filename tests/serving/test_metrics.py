import threading

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from bertline.serving.metrics import Metrics

OK, NOT_FOUND = grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND


@pytest.fixture
def metrics():
    return Metrics()


def lines(metrics):
    return metrics.render()[0].decode().splitlines()


def test_requests_under_tf_servings_names(metrics):
    metrics.observe_request("m", "Predict", "GRPC", OK, 0.003)
    metrics.observe_request("m", "Predict", "GRPC", OK, 0.001)
    metrics.observe_request("", "Predict", "GRPC", NOT_FOUND, 0.5)
    page = lines(metrics)
    assert ':tensorflow:serving:request_count{model_name="m",status="OK"} 2.0' in page
    assert ':tensorflow:serving:request_count{model_name="",status="NOT_FOUND"} 1.0' in page
    latency = ':tensorflow:serving:request_latency_{}API="Predict",entrypoint="GRPC",'
    assert latency.format("sum{") + 'model_name="m"} 4000.0' in page  # microseconds
    assert latency.format("bucket{") + 'le="18.0",model_name="m"} 0.0' in page  # 10 x 1.8
    assert latency.format("bucket{") + 'le="+Inf",model_name="m"} 2.0' in page
    assert not any("request_latency" in line and 'model_name=""' in line for line in page)  # errors are not timed


def test_requests_by_method_and_status(metrics):
    metrics.observe_request("m", "Predict", "GRPC", OK, 0.003)
    metrics.observe_request("m", "regress", "REST", NOT_FOUND, 0.003)
    page = lines(metrics)
    assert 'bertline_requests_total{code="OK",entrypoint="GRPC",method="Predict",model="m"} 1.0' in page
    assert 'bertline_requests_total{code="NOT_FOUND",entrypoint="REST",method="regress",model="m"} 1.0' in page


def test_batches(metrics):
    metrics.observe_batch("m", "text", rows=3, padding_rows=1, queued_seconds=0.0005)
    metrics.observe_batch("m", "text", rows=4, padding_rows=0, queued_seconds=0.0015)
    page = lines(metrics)
    session = ":tensorflow:serving:batching_session:"
    assert session + 'queuing_latency_sum{thread_pool_name="m"} 2000.0' in page  # microseconds
    assert session + "processed_batch_size_sum 8.0" in page
    assert session + 'padding_size_sum{execution_batch_size="4"} 1.0' in page
    assert session + 'padding_size_count{execution_batch_size="4"} 1.0' in page  # the batch that was padded
    assert 'bertline_batch_rows_sum{model="m",signature="text"} 7.0' in page
    assert 'bertline_batch_rows_bucket{le="2.0",model="m",signature="text"} 0.0' in page
    assert 'bertline_batch_rows_bucket{le="4.0",model="m",signature="text"} 2.0' in page


def test_the_queue_is_looked_at_when_the_page_is_read(metrics):
    waiting = [1, 2, 3]
    metrics.watch_queue(lambda: len(waiting))
    assert "bertline_queue_depth 3.0" in lines(metrics)
    metrics.watch_queue(lambda: 4)  # a canary has queues of its own
    waiting.clear()
    assert "bertline_queue_depth 4.0" in lines(metrics)


def test_loads(metrics):
    metrics.observe_load("m", 1700000001, 2.0, True)
    metrics.observe_load("m", 1700000002, 1.0, False)
    page = lines(metrics)
    assert 'bertline_model_load_seconds_sum{model="m",result="loaded"} 2.0' in page
    assert 'bertline_model_load_seconds_count{model="m",result="failed"} 1.0' in page
    assert 'bertline_model_loaded_version{model="m"} 1.700000001e+09' in page


def test_canaries(metrics):
    metrics.canaries.show("m", 1700000001, 1700000002)
    for by in ("stable", "canary", "shadow"):
        metrics.canaries.count_request("m", by)
    metrics.canaries.count_error("m", NOT_FOUND)
    metrics.canaries.count_texts("m", 3, 1)
    metrics.canaries.count_dropped("m")
    metrics.canaries.count_decision("m", "withdrawn")
    page = lines(metrics)
    assert 'bertline_canary_version{model="m",role="stable"} 1.700000001e+09' in page
    assert 'bertline_canary_version{model="m",role="canary"} 1.700000002e+09' in page
    for by in ("stable", "canary", "shadow"):
        assert f'bertline_canary_requests_total{{by="{by}",model="m"}} 1.0' in page
    assert 'bertline_canary_errors_total{code="NOT_FOUND",model="m"} 1.0' in page
    assert 'bertline_canary_texts_total{agree="yes",model="m"} 3.0' in page
    assert 'bertline_canary_texts_total{agree="no",model="m"} 1.0' in page
    assert 'bertline_canary_dropped_total{model="m"} 1.0' in page
    assert 'bertline_canary_decisions_total{decision="withdrawn",model="m"} 1.0' in page
    metrics.canaries.show("m", 1700000001, None)
    assert 'bertline_canary_version{model="m",role="canary"} 0.0' in lines(metrics)


def test_process_metrics_and_no_times_of_creation(metrics):
    metrics.observe_request("m", "Predict", "GRPC", OK, 0.003)
    metrics.observe_batch("m", "text", 1, 1, 0.0)
    page = lines(metrics)
    assert any(line.startswith("process_resident_memory_bytes ") for line in page)
    assert not any("_created" in line for line in page)


def test_a_scraper_reads_it_back(metrics):
    metrics.observe_request('m"\\', "Predict", "GRPC", OK, 0.003)
    metrics.observe_batch("m", "text", 3, 1, 0.0005)
    body, content_type = metrics.render()
    assert content_type.startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in text_string_to_metric_families(body.decode())}
    assert families[":tensorflow:serving:request_latency"].type == "histogram"
    assert families["bertline_requests"].type == "counter"
    count = families[":tensorflow:serving:request_count"]
    assert [(sample.name, sample.labels, sample.value) for sample in count.samples] == [
        (":tensorflow:serving:request_count", {"model_name": 'm"\\', "status": "OK"}, 1.0)
    ]


def test_two_servers_in_one_process_and_many_threads():
    one, other = Metrics(), Metrics()

    def observe():
        for _ in range(100):
            one.observe_request("m", "Predict", "GRPC", OK, 0.001)

    threads = [threading.Thread(target=observe) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ':tensorflow:serving:request_count{model_name="m",status="OK"} 400.0' in lines(one)
    assert not any('model_name="m"' in line for line in lines(other))

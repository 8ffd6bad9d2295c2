"""Statistics are sums over the series, whatever else is counted."""

from __future__ import annotations

from service.engine.metrics import Account, Metrics
from service.engine.statistics import Duration, VersionStatistics, sum_up


def test_sums_of_every_version():
    metrics = Metrics()
    first, second = metrics.version("m", 1), metrics.version("m", 2)
    metrics.version("unused", 1)
    for status, took_s in ((200, 0.25), (200, 0.5), (503, 0.125), (499, 1.0)):
        metrics.request("/v2/models/{name}/infer", first, status, took_s)
    metrics.request("/v1/classify", first, 200, 1.0)
    metrics.request("other", None, 404, 1.0)
    first.answered(5, {})
    account = Account()
    account.received, account.ran, account.admitted = 3, 1, True
    first.unanswered(account, "deadline")
    for size, seconds in ((4, 0.5), (4, 0.25), (1, 0.125)):
        first.batch(size, 0.0625, seconds)
    first.decoded(0.5)
    first.encoded(0.25)
    second.answered(1, {})
    metrics.serve([("m", 1, "ab", "CPUExecutionProvider")])
    metrics.load("m", 3, succeeded=False)
    found = sum_up(metrics.samples())
    last_s = found["m", 1].last_inference_s
    assert found["m", 1] == VersionStatistics(
        images=5,
        success=Duration(3, 1.75),
        fail=Duration(2, 1.125),
        decode=Duration(1, 0.5),
        queue=Duration(3, 0.1875),
        run=Duration(3, 0.875),
        encode=Duration(1, 0.25),
        batches={4: Duration(2, 0.75), 1: Duration(1, 0.125)},
        last_inference_s=last_s,
    )
    assert last_s > 1.7e9
    assert found["m", 2] == VersionStatistics(images=1)
    assert found["unused", 1] == VersionStatistics()

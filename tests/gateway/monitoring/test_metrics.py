from gateway.monitoring.metrics import GatewayMetrics
from shared.ids import WorkerId
from shared.messages import PoolStatus, WorkerCapabilities


def test_they_tell_what_each_worker_is_while_it_is_there() -> None:
    capabilities = WorkerCapabilities(
        model="tiny", block_size=16, num_blocks=8, max_model_len=64, max_num_seqs=1, max_num_batched_tokens=64,
        kernels="native avx2", dtype="stored", kv_cache_dtype="bfloat16", quantization="none",
    )  # fmt: skip
    status = PoolStatus(epoch=1, kv_cache_unused_ratio=0.25, workers={WorkerId("w1"): capabilities})
    info = (
        'pagestream_worker_info{device="cpu",dtype="stored",kernels="native avx2",kv_cache_dtype="bfloat16",'
        'quantization="none",worker="w1"} 1.0'
    )
    metrics = GatewayMetrics("tiny")
    told = metrics.render(status).decode()
    assert info in told
    assert 'pagestream_kv_cache_unused_ratio{engine="0",model_name="tiny"} 0.25' in told
    assert "pagestream_worker_info{" not in metrics.render(PoolStatus(epoch=1)).decode()
    assert "pagestream_worker_info{" not in metrics.render(None).decode()

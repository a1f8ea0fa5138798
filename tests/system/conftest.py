from tests.gpu_worker.conftest import demo, demo_oracle, load

__all__ = ["demo", "demo_oracle", "load"]

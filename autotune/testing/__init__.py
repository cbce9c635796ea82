"""For tests of engines of other packages: the suite that every engine of autotune passes.

    from autotune.testing import check_engine

    def test_my_engine(tmp_path):
        for checked in check_engine("fastrun", folder=tmp_path):
            assert checked.reason is None, checked

`check_engine` runs the embedded model in real workers, so it needs torch and transformers.
"""

from autotune.testing.engines import (
    Checked,
    EngineBench,
    baseline_with,
    check_engine,
    check_outputs,
)

__all__ = ["Checked", "EngineBench", "baseline_with", "check_engine", "check_outputs"]

"""Grey data through the whole path: trained in one channel, scored, drawn, and its pictures read back."""

import json
import shutil
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cli
from tests import idx_files

EXPERIMENT = """
    name: grey
    preset: chainer
    seeds: [0]
    dataset: {name: fashion_mnist, path: idx, expect_full: false, channels: 1}
    backbone: {width: 0.0625, z_dim: 8}
    train: {total_kimg: 0.032, batch_size: 8, tick_kimg: 0.016, snapshot_kimg: 0.032}
    arms: {baseline: {}, align: {sel: {}, align: {}}}
    eval: {num_fakes: 64, batch_size: 16, metrics: {fd_efficientnet_lite0: {size: 32}, disequilibrium: {n: 16}}}
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:::(mlflow|sqlalchemy|alembic|pydantic|google|starlette).*")
def test_a_matrix_on_one_channel(tmp_path: Path, mlflow_db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NASHBOARD_CACHE", str(tmp_path / "cache"))
    Path("results").mkdir()
    shutil.copy(mlflow_db, "results")
    idx_files.write(tmp_path / "idx")
    Path("grey.yaml").write_text(textwrap.dedent(EXPERIMENT))
    assert cli.main(["plan", "grey.yaml"]) == 0
    assert cli.main(["matrix", "grey.yaml", "--local"]) == 0
    results = [json.loads(p.read_text()) for p in Path("results/trials").glob("*/result.json")]
    assert len(results) == 2
    for result in results:
        assert result["status"] == "done"
        (distance,) = (v for k, v in result["metrics"].items() if k.startswith("fd_"))
        assert "repeated to three channels" in distance["protocol"]["images"]
        assert np.isfinite(distance["value"])
    for path in Path("results/trials").glob("*/samples/*.png"):
        sheet = np.asarray(Image.open(path))
        assert sheet.shape[2] == 3 and (sheet == sheet[..., :1]).all()
    trained = next(Path("results/trials").glob("*/checkpoints/*.safetensors"))
    assert cli.main(["pictures", str(trained), "--out", "pictures"]) == 0
    assert (Path("pictures") / "attention_real.png").exists()

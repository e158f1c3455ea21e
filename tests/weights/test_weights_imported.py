"""Network pickles that are imported: whole, under our names, with what they tell of themselves."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import cli
from harness.errors import UserError
from harness.experiment.parse import parse_trial
from harness.store import checkpoint
from harness.weights import importer as weights
from tests import network_pickles as pickled
from tests.network_pickles import SIZES, content, eqgan, state


@pytest.fixture
def pkl(tmp_path: Path) -> Path:
    return tmp_path / "network.pkl"


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_tensor_arrives_whatever_the_protocol(pkl: Path, protocol: int) -> None:
    given = content()
    pickled.write(pkl, given, protocol)
    made = weights.import_weights(pkl, pkl.with_suffix(".safetensors"))
    saved = checkpoint.read(made.file)
    for key, head in (("G", "g/backbone."), ("G_ema", "g_ema/backbone."), ("D", "d/")):
        expected = {k: v for k, v in given[key].state_dict().items() if not k.endswith("resample_filter")}
        arrived = {k.removeprefix(head): v for k, v in saved.tensors.items() if k.startswith(head)}
        assert arrived.keys() == expected.keys()
        assert all(torch.equal(arrived[k], expected[k]) for k in expected)
    assert made.notes == [] and saved.meta["imported"]["file"] == "network.pkl"
    assert parse_trial(saved.meta["config"], "test") == made.trial
    assert made.trial.dataset.options.path == Path("cats.zip")


def test_recorded_arguments_become_options(pkl: Path) -> None:
    g, d = state()
    net = pickled.generator(SIZES, g, conv_clamp=256, num_fp16_res=4)
    pickled.write(
        pkl, content(G=net, G_ema=net, D=pickled.discriminator(SIZES | {"mbstd_group_size": 8}, d, conv_clamp=256))
    )
    options = weights.import_weights(pkl, pkl.with_suffix(".safetensors")).trial.backbone.options
    assert (options.conv_clamp, options.num_fp16_res, options.mbstd_group) == (256.0, 4, 8)
    assert (options.channel_base, options.channel_max, options.mapping_layers) == (128, 8, 2)


def test_memory_layouts_and_half_precision_keep_values(pkl: Path) -> None:
    given = content()
    net = given["G_ema"]
    conv = net.synthesis.b8.conv1
    conv.weight.data = conv.weight.data.contiguous(memory_format=torch.channels_last)
    conv.bias.data = conv.bias.data.half()
    net.synthesis.b8.torgb.weight.data = torch.arange(96.0)[8:56:2].reshape(3, 8, 1, 1)
    pickled.write(pkl, given)
    tensors = checkpoint.read(weights.import_weights(pkl, pkl.with_suffix(".safetensors")).file).tensors
    for name in ("conv1.weight", "conv1.bias", "torgb.weight"):
        expected = net.get_parameter(f"synthesis.b8.{name}").float()
        assert torch.equal(tensors[f"g_ema/backbone.synthesis.b8.{name}"], expected)


def test_the_cifar_recipe_has_a_plain_discriminator_and_keeps_no_average(pkl: Path) -> None:
    g, d = state(architecture="orig")
    del g["mapping.w_avg"]
    net = pickled.generator(SIZES, g)
    net._init_kwargs["mapping_kwargs"]["w_avg_beta"] = None
    pickled.write(pkl, content(G=net, G_ema=net, D=pickled.discriminator(SIZES, d, architecture="orig")))
    made = weights.import_weights(pkl, pkl.with_suffix(".safetensors"))
    assert made.trial.backbone.options.architecture == "orig"
    assert len(made.notes) == 1 and "w_avg" in made.notes[0]


def test_eqgan_becomes_sel_in_its_release_profile(pkl: Path) -> None:
    net = pickled.generator(SIZES, eqgan())
    pickled.write(pkl, content(G=net, G_ema=net))
    made = weights.import_weights(pkl, pkl.with_suffix(".safetensors"))
    assert made.trial.variant("sel").profile == "release" and made.notes == []
    assert any(name.startswith("g_ema/encoder.layers.b4_conv1") for name in checkpoint.read(made.file).tensors)


def test_eqgan_code_without_sel_is_a_baseline(pkl: Path) -> None:
    """That code makes the heatmap encoders even then; they do nothing."""
    tensors = {k: v for k, v in eqgan().items() if ".sel." not in k}
    net = pickled.generator(SIZES, tensors)
    pickled.write(pkl, content(G=net, G_ema=net))
    made = weights.import_weights(pkl, pkl.with_suffix(".safetensors"))
    assert made.trial.variants == () and len(made.notes) == 1 and "hm_conv" in made.notes[0]


def test_what_is_left_behind_is_told(pkl: Path) -> None:
    given = content(augment_pipe=pickled.network("AugmentPipe", {"p": torch.ones(())}), extra=[1, 2])
    given["D"]._init_kwargs["block_kwargs"]["freeze_layers"] = 3
    pickled.write(pkl, given)
    notes = weights.import_weights(pkl, pkl.with_suffix(".safetensors")).notes
    assert [n.split(":")[0] for n in notes] == ["D", "augment_pipe", "extra"]
    assert "freeze_layers = 3" in notes[0]


def test_heatmaps_hooks_and_other_belongings_of_modules_are_passed_over(pkl: Path) -> None:
    given = content()
    d: Any = given["D"]
    d.heatmaps = {"b8": torch.zeros(2, 1, 4, 4)}
    d.register_forward_hook(d.extra_repr)  # pickles as a call of getattr
    d.kinds = {torch.float16, "a"}
    pickled.write(pkl, given)
    assert weights.import_weights(pkl, pkl.with_suffix(".safetensors")).notes == []


def test_a_folder_is_laid_out_like_a_trial(pkl: Path) -> None:
    folder = pickled.write(pkl, content()).parent / "imported"
    made = weights.import_weights(pkl, folder)
    saved = checkpoint.load_latest(folder / "checkpoints")
    assert saved is not None and made.file.parent == folder / "checkpoints"
    with pytest.raises(UserError, match="holds checkpoints already"):
        weights.import_weights(pkl, folder)


def test_images_seen_are_read_off_the_usual_file_name(pkl: Path) -> None:
    path = pickled.write(pkl.with_name("network-snapshot-025000.pkl"), content())
    assert checkpoint.read(weights.import_weights(path, path.with_suffix(".safetensors")).file).meta["nimg"] == 25e6


@pytest.mark.parametrize("arm", ["baseline", "sel", "conditional", "grey"])
def test_from_pickle_to_score(pkl: Path, arm: str, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setenv("NASHBOARD_CACHE", str(pkl.parent / "cache"))
    net = pickled.generator(SIZES, eqgan())
    arms: dict[str, dict[str, Any]] = {"baseline": {}, "sel": {"G": net, "G_ema": net}, "conditional": {"c_dim": 10}}
    arms["grey"] = {"img_channels": 1}
    pickled.write(pkl, content(**arms[arm]))
    assert cli.main(["import-weights", str(pkl)]) == 0
    file, scored = pkl.with_suffix(".safetensors"), pkl.with_suffix(".json")
    assert str(file) in capsys.readouterr().out
    data = ["--set", "dataset.name=synthetic", "--set", "dataset.num_images=64"]
    data += ["--set", "dataset.channels=1"] if arm == "grey" else []
    words = ["eval", str(file), "--metrics", "disequilibrium", "--num-fakes", "64", "--device", "cpu"]
    assert cli.main([*words, *data, "--out", str(scored)]) == 0
    records = json.loads(scored.read_text())
    assert records["di"]["protocol"]["weights"] == "ema" and records["di"]["value"] != 0
    other = {
        "sel": "dataset.resolution=64",
        "grey": "dataset.channels=3",
        "baseline": "conditional=true",
        "conditional": "conditional=false",
    }[arm]
    assert cli.main([*words, *data, "--set", other]) == 2
    assert "does not fit" in capsys.readouterr().err

"""DFER-CLIP's published files: the same numbers come out, and nothing in a file can run."""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from published_dfer_clip import IMAGE, WINDOW, State, published_logits, random_state, save_published

from dfer.export.command import main as export
from dfer.runtime import Bundle, DferError, Recognizer
from dfer.runtime.labels import EXPRESSIONS, MAFW_EXPRESSIONS
from dfer.train.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from dfer.train.checkpoints.untrusted_checkpoint import Placeholder, read_untrusted
from dfer.train.methods.dfer_clip import DferClip

MOST = 1e-4  # |Δlogit|, of logits up to 100


def clips(count: int = 2) -> torch.Tensor:
    frames = np.random.default_rng(0).integers(0, 256, (count, WINDOW, IMAGE, IMAGE, 3), dtype=np.uint8)
    return torch.from_numpy(frames)


def refused(path: Path, words: str) -> None:
    with pytest.raises(DferError, match=words) as caught:
        DferClip.load_published(path)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)


@pytest.mark.parametrize(
    ("classes", "class_specific", "prefix", "layers"),
    [(7, True, "module.", 1), (7, False, "", 2), (11, True, "", 1), (11, False, "module.", 1)],
)
@torch.inference_mode()
def test_the_published_forward_comes_out(
    classes: int, class_specific: bool, prefix: str, layers: int, tmp_path: Path
) -> None:
    state = random_state(classes, class_specific, layers, seed=classes)
    save_published(state, tmp_path / "published.pth", prefix)
    method, training = DferClip.load_published(tmp_path / "published.pth")
    frames = clips()
    features = method.encode_frames(frames.flatten(0, 1)).view(*frames.shape[:2], -1)
    found, wanted = method.logits(features), published_logits(state, frames)
    assert wanted.std() > 3  # logits that agree because they are all alike would prove nothing
    assert (found - wanted).abs().max() < MOST
    assert method.classes == {7: EXPRESSIONS, 11: MAFW_EXPRESSIONS}[classes]
    assert training == {"epoch": 37, "best_accuracy": 71.25}
    assert not method.training


def test_a_file_without_the_second_copy_of_clip_is_enough(tmp_path: Path) -> None:
    state = random_state(7, True)
    needed = ("clip_model_.token_embedding.weight", "clip_model_.logit_scale")
    lean = {name: value for name, value in state.items() if not name.startswith("clip_model_.") or name in needed}
    torch.save(lean, tmp_path / "lean.pth")  # a bare state dict
    method, training = DferClip.load_published(tmp_path / "lean.pth")
    frames = clips(1)
    with torch.inference_mode():
        found = method.logits(method.encode_frames(frames[0])[None])
        assert (found - published_logits(state, frames)).abs().max() < MOST
    assert training == {}


def test_it_becomes_a_checkpoint_of_ours(tmp_path: Path) -> None:
    save_published(random_state(7, False), tmp_path / "published.pth")
    method, training = DferClip.load_published(tmp_path / "published.pth")
    save_checkpoint(method, tmp_path / "ours.pt", training)
    again, _ = load_checkpoint(tmp_path / "ours.pt")
    frames = clips(1)[0]
    with torch.inference_mode():
        torch.testing.assert_close(again.encode_frames(frames), method.encode_frames(frames))
        torch.testing.assert_close(again.class_matrix(), method.class_matrix())


@pytest.mark.long
def test_it_exports_and_the_error_of_a_plain_export_says_how(tmp_path: Path) -> None:
    state = random_state(11, True)
    checkpoint = tmp_path / "DFER-CLIP.pth"
    save_published(state, checkpoint)
    result = CliRunner().invoke(export, ["--ckpt", str(checkpoint)])
    assert result.exit_code == 1
    assert "dfer-export and dfer-distill read it with --method dfer-clip" in result.output
    result = CliRunner().invoke(export, ["--ckpt", str(checkpoint), "--method", "dfer-clip"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    bundle = Bundle.open(tmp_path / "DFER-CLIP.dfer")
    assert (bundle.manifest.method, bundle.manifest.classes) == ("dfer-clip", MAFW_EXPRESSIONS)
    assert bundle.manifest.provenance["format"] == "published dfer-clip"
    assert bundle.manifest.provenance["training"] == {"epoch": 37, "best_accuracy": 71.25}
    frames = clips(1)
    with Recognizer(bundle.path) as recognizer:
        found = recognizer.classify(recognizer.encode(frames[0].numpy())[None])
    np.testing.assert_allclose(found, published_logits(state, frames).softmax(dim=-1).numpy(), atol=1e-4)


def without(state: State, *names: str) -> State:
    return {name: value for name, value in state.items() if name not in names}


def test_other_models_are_refused_by_the_names_of_their_tensors(tmp_path: Path) -> None:
    state = random_state(7, True)
    path = tmp_path / "other.pth"
    attention = "temporal_net.temporal_transformer.layers.0.0.fn.fn.to_qkv.weight"
    cases: list[tuple[object, str]] = [
        (without(state, attention), f"missing {attention}$"),
        (without(state, "image_encoder.proj"), "missing image_encoder.proj$"),
        (state | {"project_fc.weight": torch.ones(2)}, "unexpected project_fc.weight$"),
        (without(state, attention) | {"a": torch.ones(1)}, f"missing {attention}; unexpected a$"),
        ({"layer1.weight": torch.ones(2)}, "missing prompt_learner.ctx, .* and 5 more$"),
        (state | {"temporal_net.cls_token": torch.ones(1, 1, 9)}, "size mismatch for temporal.class_token"),
        (state | {"image_encoder.conv1.weight": torch.ones(128, 3)}, "unexpected shapes"),
        (random_state(8, True), "8 classes, not 7 or 11"),
        (state | {"prompt_learner.token_suffix": torch.ones(7, 11, 64)}, "no end-of-text"),
        ({"state_dict": {"epoch": 3}}, "no state dict"),
        ([torch.ones(1)], "missing prompt_learner.ctx"),
    ]
    for content, words in cases:
        torch.save(content, path)
        refused(path, words)


class Calls:
    """Unpickling this calls a function, were it allowed to."""

    def __init__(self, function: object, *args: object) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[object, ...]:
        return self.call


def test_functions_named_in_place_of_the_recorder_do_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "was-here"
    path = tmp_path / "bad.pth"
    code = f"__import__('os').mkdir({str(trace)!r})"
    state = random_state(7, True)
    for call in (Calls(eval, code), Calls(exec, code), Calls(shutil.copytree, str(tmp_path), str(trace))):
        torch.save({"state_dict": state, "recorder": call}, path)
        content = read_untrusted(path)
        assert isinstance(content, dict)
        assert type(content["recorder"]) is Placeholder
        assert DferClip.load_published(path)[0].classes == EXPRESSIONS  # the tensors are good, the call is nothing
    for call in (Calls(os.mkdir, str(trace)), Calls(os.system, f"mkdir {trace}")):
        torch.save({"state_dict": state, "recorder": call}, path)
        refused(path, "refused; .* does more than describe values")
    assert not trace.exists()


def text(words: str) -> bytes:
    """Pickle's opcode that pushes a string."""
    return b"X" + len(words).to_bytes(4, "little") + words.encode()


def write_zip(path: Path, records: dict[str, bytes]) -> None:
    """A file in torch's zip format."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {**records, "version": b"3\n"}.items():
            archive.writestr(f"archive/{name}", data)


def test_hand_made_pickles_do_not_run(tmp_path: Path) -> None:
    """Names with dots, other opcodes, and torch's own functions told to call another; all run under plain pickle."""
    trace = tmp_path / "was-here"
    made, code = text(str(trace)), text(f"__import__('os').mkdir({str(trace)!r})")
    pickles = {
        "dotted": b"\x80\x04ctorch.serialization\nos.mkdir\n" + made + b"\x85R.",
        "dotted-stack": b"\x80\x04" + text("torch.serialization") + text("os.mkdir") + b"\x93" + made + b"\x85R.",
        "utils": b"\x80\x04ctorch._utils\ntorch.serialization.os.mkdir\n" + made + b"\x85R.",
        "inst": b"(" + code + b"ibuiltins\neval\n.",
        "obj": b"\x80\x02(cbuiltins\neval\n" + code + b"o.",
        "rebuild": b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\n(cbuiltins\neval\nctorch\nTensor\n"
        + (code + b"\x85}tR."),
    }
    for name, pickled in pickles.items():
        with contextlib.suppress(Exception):
            pickle.loads(pickled)
        assert trace.exists(), f"{name} is harmless and proves nothing"
        trace.rmdir()
        path = tmp_path / f"{name}.pth"
        write_zip(path, {"data.pkl": pickled})
        with contextlib.suppress(DferError):
            assert type(read_untrusted(path)) is Placeholder, name
        with pytest.raises(DferError):
            DferClip.load_published(path)
        assert not trace.exists(), name


def test_files_of_other_kinds_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "absent.pth", "no such file")
    (tmp_path / "text.pth").write_text("hello")
    refused(tmp_path / "text.pth", "refused")
    torch.save(random_state(7, True), tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    refused(tmp_path / "legacy.pth", "refused")
    write_zip(tmp_path / "script.pth", {"data.pkl": pickle.dumps({}, 2), "constants.pkl": b""})  # as TorchScript has it
    refused(tmp_path / "script.pth", "refused")
    save_published(random_state(7, True), tmp_path / "whole.pth")
    data = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(data[: len(data) // 2])
    refused(tmp_path / "cut.pth", "refused")

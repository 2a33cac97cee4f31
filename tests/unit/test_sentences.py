"""The sentences that users act on. Other tests assert classes and codes, so that wording can improve in one place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from benchmarks.load.options import concurrency_levels
from builder.repository.retention import KeptVersion, Retention
from builder.sources import open_source
from builder.tensorrt.parser_errors import parser_message
from builder.verification.verifier import _failed_sizes_message, _positions_text, quality_losses
from client.infer import Row
from client.inputs import picture_from_input
from client.model_loading import check_threshold
from client.outputs.filters import Filter
from client.outputs.job import JobSettings, open_job
from client.sources import find_pictures
from server.network_policy import check_network_options
from server.options import Options
from tests.fixture_types import Command
from train.config.loading import load_config
from train.config.sections import LossTerm
from train.data.prepare import parse_ratios
from train.tasks.losses import MULTICLASS, weighted_sum
from tritonkit.checkpoint import read_spec
from tritonkit.errors import ArtifactError, CheckpointError, ConfigError, InputError, SpecError
from tritonkit.evaluation.readers import read_table
from tritonkit.images.preprocess import ImageError, decode_image
from tritonkit.networks.weights import read_foreign_weights
from tritonkit.runtimes import open_artifact
from tritonkit.spec import TaskSpec
from tritonkit.tasks import Answer, task_for
from tritonkit.triton.connection import Connection
from tritonkit.triton.errors import error_from_status


def refusal(error: type[Exception], call: Callable[..., object], *arguments: object, **options: object) -> str:
    """What a call that is refused says."""
    with pytest.raises(error) as caught:
        call(*arguments, **options)
    return str(caught.value)


# builder


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--onnx", "fp8"], "--onnx fp8: expected 'fp32', 'fp16', 'bf16' or 'int8'"),
        (["--strict", "--force"], "--strict: publishes only what passes; leave out --force"),
        (["--masks", "masks"], "--masks masks: are the masks of labelled images; add --data"),
        (["--crop-ratio", "2"], "--crop-ratio 2: expected less than or equal to 1"),
        (["--kind", "cpu", "--gpus", "0"], "--gpus 0: instances of kind cpu use no GPU; set --kind to gpu"),
    ],
)
def test_builder_export_says_what_to_change(
    command: Command, checkpoint: Path, tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    result = command("builder", "export", checkpoint, *arguments, "--repository", tmp_path / "repository")
    assert result.exit_code == 2
    assert sentence in result.stderr


# builder
def test_retention_says_what_was_deleted_and_what_stays() -> None:
    kept = (KeptVersion(version=5, reason="marked (the best)"),)
    done = Retention(model="pets", keep=2, deleted=(1, 2), kept=kept)
    assert done.summary() == "pets: deleted 1, 2 (5 stays: marked (the best))"


def test_plan_as_a_source_is_refused_with_what_to_pass_instead(tmp_path: Path) -> None:
    (tmp_path / "m.plan").write_bytes(b"ptrt" + bytes(60))
    assert refusal(InputError, open_source, tmp_path / "m.plan", None, None) == (
        f"{tmp_path}/m.plan: is a TensorRT plan. A plan cannot be verified without its model, and runs only on the GPU "
        "and TensorRT version it was built for: pass the checkpoint or the ONNX file it was built from"
    )


def test_fixed_batch_axis_is_named_with_the_sizes_that_work() -> None:
    assert _failed_sizes_message({3: "boom", 8: "boom"}, [1, 3, 8], 1) == (
        "the batch axis is fixed: a batch of 1 works, a batch of 3, 8 fails (boom)"
    )
    assert _positions_text([9, 10, 11]) == "positions 10 to 12"


def test_quality_loss_names_the_metric_and_both_values() -> None:
    assert list(quality_losses({"accuracy": 0.9}, {"accuracy": np.float64(0.5)}, 0.01)) == [
        "accuracy falls from 0.9000 to 0.5000"
    ]


def test_parser_error_names_graph_operator_node_and_remedy() -> None:
    error = "In node 2 with name: det and operator: Det (checkDet): UNSUPPORTED_NODE: x"
    assert parser_message("bad.onnx", "TensorRT 11.1", ["While parsing node number 2", error]) == (
        "bad.onnx: TensorRT 11.1 refuses operator Det (node 'det'): x; TensorRT does not support it. Replace the layer "
        "in the network, or serve the graph as it is, with --onnx"
    )


# client
def test_interrupted_job_says_how_to_continue(tmp_path: Path) -> None:
    settings = JobSettings(model="m", spec="0" * 64, top=1, outputs=("a.csv",))
    example, messages = Answer({"label": "cat", "probability": 1.0}), list[str]()
    path = tmp_path / "a.csv"

    def interrupted_job() -> None:
        with open_job([path], settings, example, messages.append) as job:
            job.write(Row("cat.jpg", example))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted_job()
    assert messages == [f"1 rows are kept in {path}.job; run the same command to continue"]


def test_existing_output_is_refused_with_three_ways_out(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text("mine\n")
    settings = JobSettings(model="m", spec="0" * 64, top=1, outputs=("a.csv", "b.csv"))
    example = Answer({"label": "cat", "probability": 1.0})
    with (
        pytest.raises(InputError) as caught,
        open_job([tmp_path / "a.csv", tmp_path / "b.csv"], settings, example, print),
    ):
        pytest.fail("the job has started")
    assert str(caught.value) == (
        f"{tmp_path / 'b.csv'}: already exists and was not written by this job; set another --output, move the file "
        "away, or replace it with --overwrite"
    )


def test_unknown_label_names_the_similar_label() -> None:
    said = refusal(
        InputError, Filter.from_options, TaskSpec(task="multiclass", labels=("red", "green")), ["gren"], None
    )
    assert said == "--class gren: the model has no such label; did you mean green?"


def test_option_without_use_and_missing_file_are_reported_together(tmp_path: Path) -> None:
    assert refusal(InputError, find_pictures, [f"{tmp_path}/none.png"], null=True) == (
        "the arguments cannot be used:\n"
        f"  {tmp_path}/none.png: no such file or folder\n"
        "  --null: applies to a list on standard input; add the argument -"
    )


def test_wrong_input_and_threshold_name_the_expected_values() -> None:
    said = refusal(InputError, picture_from_input, 3, 0)
    assert said == "image 0: expected a path, bytes, a Pillow image or uint8 [H, W, 3], got int"
    assert refusal(InputError, check_threshold, 1.0) == "--threshold 1.0: expected a probability above 0 and below 1"


# nouns
def test_weights_without_a_spec_show_the_command_that_exports_them(tmp_path: Path) -> None:
    path = tmp_path / "hub.safetensors"
    save_file({"weight": np.zeros(3)}, path)
    assert refusal(CheckpointError, read_spec, path) == (
        f"{path}: has weights but no model spec, so it was not written by `train`. To use third-party weights: "
        f"builder export {path} --model TIMM_NAME --labels FILE"
    )


def test_pickled_code_shows_how_to_save_only_the_weights(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"state_dict": Path}, path)
    said = refusal(CheckpointError, read_foreign_weights, path)
    assert "save only the weights: torch.save(model.state_dict(), FILE) or safetensors" in said


def test_address_shows_the_expected_forms() -> None:
    with pytest.raises(InputError) as caught:
        _ = Connection(url="localhost").address
    assert str(caught.value) == (
        "localhost: the port is missing; Triton's default is 8001; expected HOST:PORT, grpc://HOST:PORT or "
        "http://HOST:PORT, and grpcs:// or https:// with TLS"
    )


def test_unsupported_image_shows_what_to_do() -> None:
    said = refusal(ImageError, decode_image, b"8BPS\0\1" + bytes(50))
    assert said == "PSD (Photoshop) is not supported; save it as PNG or JPEG"


# nouns
def test_open_artifact_lists_the_suffixes_that_it_knows(tmp_path: Path) -> None:
    (tmp_path / "model.keras").touch()
    assert refusal(ArtifactError, open_artifact, tmp_path / "model.keras") == (
        f"{tmp_path}/model.keras: cannot run a file with the suffix '.keras'; "
        "known suffixes: .safetensors, .onnx, .xml, .pt, .plan, .rtx, .faiss"
    )


def test_refused_token_names_the_variables_to_set() -> None:
    message = "This protocol is restricted, expecting header 'triton-grpc-protocol-tritonkit-token'"
    error = error_from_status(Connection(url="127.0.0.1:9"), "run 'x'", "StatusCode.UNAVAILABLE", message)
    assert str(error).endswith(
        ": set $TRITONKIT_TOKEN, or for the model repository $TRITONKIT_ADMIN_TOKEN, "
        "to the token that the server was started with"
    )


def test_unreachable_server_names_the_command_that_starts_one() -> None:
    error = error_from_status(Connection(url="127.0.0.1:9"), "run 'x'", "StatusCode.UNAVAILABLE", "Socket closed")
    assert str(error) == (
        "no Triton answers at 127.0.0.1:9 (Socket closed). "
        "Start one with `server up`, or give the address of its gRPC (8001) port with --url."
    )


def test_unknown_task_lists_the_known_tasks() -> None:
    with pytest.raises(SpecError, match="unknown task 'divination'; known tasks: multiclass, multilabel, embedding"):
        task_for(TaskSpec(task="divination"))


def test_threshold_inside_a_graph_names_both_export_options() -> None:
    task = task_for(TaskSpec(task="segmentation", labels=("background", "stamp")))
    said = refusal(SpecError, task.with_threshold, 0.3)
    assert "`builder export --threshold`) or with `builder export --probability`" in said


# server
def test_exposure_without_tls_names_both_ways_out() -> None:
    from server.security import Security

    options = Options(repository=Path("models"), host="0.0.0.0", security=Security(expose=True))
    assert refusal(InputError, check_network_options, options) == (
        "--expose without TLS: anyone who can reach 0.0.0.0 could use every model, and read images, responses and "
        "tokens on the network. Add --tls-cert FILE and --tls-key FILE, or --insecure to accept this"
    )


def test_host_beyond_loopback_asks_for_consent() -> None:
    said = refusal(InputError, check_network_options, Options(repository=Path("models"), host="0.0.0.0"))
    assert said == "--host 0.0.0.0: other machines can reach this address; add --expose to allow it"


def test_concurrency_shows_what_it_accepts() -> None:
    assert refusal(InputError, concurrency_levels, "0") == (
        "--concurrency 0: expected a number such as 4, a doubling range such as 1:64, or a list such as 1,8,32, "
        "all in 1..1024"
    )


# train
CONFIG = "name: x\ndata: {path: x}\nmodel: {nmae: resnet18}\nimage: {size: 64}\n"


def test_config_error_names_line_key_and_suggestion(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    said = refusal(ConfigError, load_config, path)
    assert "line 3, model.nmae: unknown key; did you mean model.name?" in said


def test_config_error_explains_text_without_quotes(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.replace("name: x", "name: no").replace("nmae", "name"))
    said = refusal(ConfigError, load_config, path)
    assert "line 1, name: YAML reads `no` as false; write 'no' in quotes" in said


def test_ratio_error_shows_the_format() -> None:
    said = refusal(InputError, parse_ratios, "0.8")
    assert said == "--ratio 0.8: expected TRAIN:VAL or TRAIN:VAL:TEST, as in 0.7:0.15:0.15 or 80:20"


def test_loss_error_suggests_a_name() -> None:
    spec = TaskSpec(task="multiclass", labels=("a", "b"))
    said = refusal(ConfigError, weighted_sum, (LossTerm(name="crossentropy"),), "cross_entropy", MULTICLASS, spec)
    assert said == "loss: this task has none named 'crossentropy'; did you mean cross_entropy?"


def test_table_without_image_column_suggests_the_option(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("file,label\na.png,b\n")
    problem = read_table(tmp_path / "a.csv").problems[0]
    assert problem.message.endswith("select the image column with data.columns: {image: file} (or --column image=file)")

"""Fixtures that several test files share."""

import copy
import importlib.util
import logging
import os
import signal
import sys

import pytest

if importlib.util.find_spec("albef_amc") is None:
    raise pytest.UsageError("albef_amc is not installed: run `make install`, or `pip install -e '.[dev]'`.")

import torch
from hub_server import TOKEN, HubServer
from testing_utils import DATA_FOLDER, PROJECT_FOLDER, TINY_RECIPE, build_tiny_config, build_tiny_processor

from albef_amc import AlbefForImageTextMatching, AlbefForPreTraining
from albef_amc.inference_albef import check_packed_dtype

sys.path.append(str(PROJECT_FOLDER / "benchmarks"))  # tests import benchmarks as the modules that they are
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a job of the background, whose children inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed would say on standard output that it found no GPU
torch.set_num_threads(1)  # tensors of tests are small: several threads wait for each other more than they work


@pytest.fixture(scope="session")
def _tiny_models() -> dict:
    torch.manual_seed(0)
    config = build_tiny_config()
    return {
        "matching": AlbefForImageTextMatching(config).eval(),
        "pretraining": AlbefForPreTraining(copy.deepcopy(config)).eval(),
    }


@pytest.fixture
def tiny_model(_tiny_models) -> AlbefForImageTextMatching:
    """Small matching model with random weights, a fresh copy for each test."""
    return copy.deepcopy(_tiny_models["matching"])


@pytest.fixture
def tiny_pretraining_model(_tiny_models) -> AlbefForPreTraining:
    """Small pre-training model with random weights, a fresh copy for each test."""
    return copy.deepcopy(_tiny_models["pretraining"])


@pytest.fixture(scope="session")
def tiny_processor():
    """Processor with a small vocabulary and images of 32 x 32 pixels."""
    return build_tiny_processor()


@pytest.fixture
def loading_warnings(caplog):
    """Warnings of `transformers`, each once; its logger passes messages on or not, as earlier code left it."""
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    yield lambda: list(
        dict.fromkeys(record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING)
    )
    logger.removeHandler(caplog.handler)


@pytest.fixture
def checkpoint(tmp_path, tiny_model, tiny_processor):
    """Folder of a small matching checkpoint, as the demo leaves it."""
    tiny_model.save_pretrained(tmp_path / "checkpoint")
    tiny_processor.save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.fixture
def recipe(tmp_path, tiny_model):
    """A recipe of two steps from random weights on eight synthetic scenes."""
    tiny_model.config.to_json_file(tmp_path / "tiny.json")
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY_RECIPE.format(config=tmp_path / "tiny.json", cache=tmp_path / "cache"))
    return path


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A local Hub to which this process is logged in, with a cache of its own."""
    with HubServer() as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub_cache"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no_token"))
        monkeypatch.setattr("transformers.utils.hub._hf_api", None)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


@pytest.fixture
def exact_convolutions():
    """float32 convolutions on a GPU without TF32, which torch uses for them by default."""
    convolutions = torch.backends.cudnn.conv
    previous, convolutions.fp32_precision = convolutions.fp32_precision, "ieee"
    yield
    convolutions.fp32_precision = previous


@pytest.fixture
def packed_bfloat16() -> None:
    """The test is skipped where oneDNN has no packed weights in bfloat16, as on a CPU without AVX-512."""
    try:
        check_packed_dtype(torch.bfloat16)
    except ValueError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def data_folder():
    """Folder of the development data; the test is skipped without it."""
    if not DATA_FOLDER.is_dir():
        pytest.skip(f"no development data in {DATA_FOLDER}: set ALBEF_AMC_DATA to run this test")
    return DATA_FOLDER

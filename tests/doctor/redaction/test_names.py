"""Names, paths and addresses have their place, and what is ordinary stays."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from ftdoctor.redaction import here

planted = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("planted.py"))))


ORDINARY = """\
torch 2.13.0+cpu
4.57.2
transformers @ git+https://github.com/huggingface/transformers@8a1b2c3d4e5f60718293a4b5c6d7e8f901234567
wandb @ git+https://github.com/wandb/wandb@8a1b2c3d4e5f60718293a4b5c6d7e8f901234567
wandb 0.18.3 (commit 8a1b2c3d4e5f60718293a4b5c6d7e8f901234567)
sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0bd2f6e6f0a1b8c1a2e3f4
model-00001-of-00002.safetensors 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0bd2f6e6f0a1b8c1a2e3f4
550e8400-e29b-41d4-a716-446655440000
session_id=550e8400-e29b-41d4-a716-446655440000
tensor([[ 0.1234, -1.5], [2.0e-05, nan]], dtype=torch.bfloat16)
torch.float8_e4m3fn
tokenizer
token ids [128000, 9906, 11, 1917, 128009]
pad_token = '<|finetune_right_pad_id|>'
eos_token=</s>
eos_token='<|end_of_text|>', eos_token_id=128001
bos_token: "<|begin_of_text|>"
mask_token="[MASK]"
special_tokens_map.json
sk-learn
scikit-learn 1.5.2
max_tokens=20
max_new_tokens: 256
num_tokens=1048576
tokens_per_second = 1234.5
key_states = self.k_proj(hidden_states)
past_key_values
KeyError: 'model.layers.0.self_attn.q_proj.lora_A.default.weight'
Unexpected key(s) in state_dict: "base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight"
missing key: "model.layers.11.mlp.experts.3.gate_up_proj"
cache_key = "model_llama_3_2_3b_base"
token = tokenizer.decode([1, 2, 3])
hub_token=self.args.hub_token
use_auth_token=None
token=True
api_key=os.environ["OPENAI_API_KEY"]
password=getpass.getpass()
password = None
the password must be at least 8 characters
enter your password: required
Bearer token authentication is not supported
basic authentication is required
the secret of good training is data
/usr/lib/python3.11/asyncio/events.py
/usr/local/lib/python3.11/site-packages/transformers/models/auto/tokenization_auto.py
/opt/conda/lib/python3.11/site-packages/torch/nn/modules/linear.py
File "transformers/tokenization_utils_base.py", line 2419, in _from_pretrained
8.8.8.8
127.0.0.1:29500
http://localhost:8000/metrics
http://127.0.0.1:6006
0.0.0.0
nvidia-curand-cu12==10.3.9.90
nvidia-curand-cu12 10.3.9.90
nvidia_curand_cu12-10.3.9.90-py3-none-manylinux_2_27_x86_64.whl
cuDNN version 10.1.2.3
driver 570.124.06 (CUDA up to 12.8)
CUDA 12.4, capability 9.0
10.2.1
bfloat16 (2, 8, 128, 64)
torch.Size([2, 128, 4096])
https://huggingface.co/docs/transformers/main_classes/trainer
https://docs.pytorch.org/docs/stable/generated/torch.nn.Linear.html
https://github.com/huggingface/transformers/issues/42374
git@github.com:huggingface/transformers.git
ssh://git@github.com/huggingface/transformers.git
Looking in indexes: https://pypi.org/simple, https://download.pytorch.org/whl/cpu
pip install 'transformers!=4.57.2'
meta-llama/Llama-3.2-3B
token: "meta-llama/Llama-3.2-3B-Instruct"
Qwen/Qwen3-0.6B
mistralai/Mixtral-8x7B-v0.1
<|im_start|>user
<|start_header_id|>assistant<|end_header_id|>
00000000:65:00.0
0000:c1:00.0
GPU-8a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9
NVIDIA H100 80GB HBM3
AMD EPYC 9354 32-Core Processor
Linux 6.8.0-45-generic
glibc 2.39
threading.local
self.local = threading.local()
torch.distributed.elastic.multiprocessing.errors
functools.partial(<function collate at 0x7f2a1c3d4e5f>, pad_token_id=0)
<torch.utils.data.DataLoader object at 0x7f8c2d3e4f50>
RuntimeError: expected scalar type Float but found BFloat16
loss 2.4471 at step 100, grad norm 1.07
atol=3.1e-05 rtol=0
disk-based cache, task-specific heads, risk-averse
hf_transfer, hf_xet, hf_hub_download
gpt2, r8 and pa-systems
requires_grad=True, key_padding_mask=None, attn_mask=None
tokenizer_config.json, chat_template.jinja, secrets.py, token.py
TOKENIZERS_PARALLELISM=false
HF_HUB_OFFLINE=1
CUDA_VISIBLE_DEVICES=0,1
OMP_NUM_THREADS=1
WANDB_MODE=disabled
PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True
UV_INDEX_URL=https://pypi.org/simple
author: Ada, authors, authority, keyboard, monkey=3
s3://bucket/checkpoints/step-100
hf://datasets/imdb/train.parquet
file:///tmp/pytest-0/report.html
tcp://127.0.0.1:23456
2026-01-01T10:00:00+00:00
1.0.0.dev20260101+cu128
base64 encoded image of 1,234 bytes
std::vector<c10::fd>
x = {"a": 1, "key": "value", "tokens": ["a", "b"]}
sort(key=lambda item: item[1])
~/env/bin/python
C:\\Python311\\python.exe
"""


@pytest.mark.parametrize("text", ORDINARY.splitlines())
def test_what_is_ordinary_stays(text):
    """On a machine whose user and host have ordinary names, too."""
    environ = {"HOME": "/home/user", "USER": "user", "HOSTNAME": "torch", "HF_TOKEN": "disabled", "MY_KEY": "12345678"}

    assert here(environ).text(text) == text


@pytest.mark.parametrize("user", ["root", "test", "torch", "me", "lora", "runner", "max", "jo"])
def test_a_name_that_is_a_word_wrecks_nothing(user):
    """`torch`, `test`, `max`: a text about them stays, and so does the path of a library."""
    redactor = here({"HOME": f"/home/{user}", "USER": user, "HOSTNAME": user})

    for text in (
        "import torch, test; max(lora, me, jo)",
        "/opt/lib/site-packages/torch/test/x.py",
        "the runner of root",
    ):
        assert redactor.text(text) == text
    assert redactor.text(f"/home/{user}/env/x.py") == "~/env/x.py"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/ada.lovelace/runs/1", "~/runs/1"),
        ("'/home/ada.lovelace'", "'~'"),
        ("file:///home/ada.lovelace/x", "file://~/x"),
        ("/private/home/ada.lovelace/x", "~/x"),
        ("-I/home/ada.lovelace/include", "-I~/include"),
        ("%2Fhome%2Fada.lovelace%2Fx", "~%2Fx"),
        ("\\n/home/ada.lovelace/x", "\\n~/x"),
        ("/home/ada.lovelaceX/x", "/home/<user>/x"),
        ("/home/grace/x.py:3", "/home/<user>/x.py:3"),
        ("/Users/grace/Library", "/Users/<user>/Library"),
        ("/mnt/c/Users/grace/x", "/mnt/c/Users/<user>/x"),
        ("C:\\Users\\Grace Hopper\\x", "C:\\Users\\<user>\\x"),
        ("C:\\\\Users\\\\grace\\\\x", "C:\\\\Users\\\\<user>\\\\x"),
        ("/root/x", "~/x"),
        ("chroot/root/x", "chroot/root/x"),
        ("https://example.com/home/page", "https://example.com/home/page"),
        ("/scratch/ada.lovelace/x", "/scratch/<user>/x"),
        ("ada.lovelace@engine-07:~$", "<user>@<host>:~$"),
        ("on engine-07.analytical.example.net now", "on <host> now"),
        ("node.analytical.example.net", "<private address>"),
        ("ENGINE-07 is up", "<host> is up"),
        ("my_ada.lovelace_x", "my_ada.lovelace_x"),
        ("http://10.0.0.8:8080/x, then", "<private address>, then"),
        ("connect to 192.168.1.7:22 failed", "connect to <private address>:22 failed"),
        ("MASTER_ADDR=10.0.0.5 host=10.0.0.6:80", "MASTER_ADDR=<private address> host=<private address>:80"),
        ("172.16.3.4 172.32.3.4", "<private address> 172.32.3.4"),
        ("[fe80::1%eth0]:80 fd12:3456::9", "<private address>:80 <private address>"),
        ("ip-10-0-3-4.ec2.internal", "<private address>"),
        ("HTTPSConnectionPool(host='hub.internal', port=443)", "HTTPSConnectionPool(host='<private address>', port=443)"),
        ("http://mlflow:5000/api", "<private address>"),
        ("Failed to resolve 'git.corp'", "Failed to resolve '<private address>'"),
        ("https://nexus.analytical-corp.com/simple/torch/", "<private address>"),
        ("at nexus.analytical-corp.com:443", "at <private address>"),
        ("proxy.analytical-corp.com", "<private address>"),
        ("Looking in indexes: https://pypi.org/simple, https://a.b.com/s", "Looking in indexes: https://pypi.org/simple, <private address>"),
        ("uv pip install --index-url https://x.acme.io/simple torch", "uv pip install --index-url <private address> torch"),
        ("Failed to fetch: `https://x.acme.io/simple/torch/`", "Failed to fetch: `<private address>`"),
        ("Failed to fetch: `https://pypi.org/simple/torch/`", "Failed to fetch: `https://pypi.org/simple/torch/`"),
        ("UV_INDEX_URL=https://x.acme.io/simple", "UV_INDEX_URL=<private address>"),
        ("index-url = https://x.acme.io/simple", "index-url = <private address>"),
    ],
)  # fmt: skip
def test_names_paths_and_addresses_have_their_place(text, shown):
    """The same name always becomes the same word, so that a report stays readable."""
    assert here(planted.ADA).text(text) == shown
    assert here(planted.ADA).text(shown) == shown


def test_the_rendezvous_host_of_a_distributed_run_is_private():
    """Though its name has no dot; one that is an ordinary word is not looked for in sentences."""
    redactor = here({"HOME": "/x/y", "MASTER_ADDR": "node12", "HTTPS_PROXY": "http://proxy:3128"})

    assert redactor.text("failed to connect to [node12]:29500") == "failed to connect to [<private address>]:29500"
    assert redactor.text("node12: rank 3") == "<private address>: rank 3"
    assert (
        redactor.text("set a proxy in node121, my_node12 or node12_x")
        == "set a proxy in node121, my_node12 or node12_x"
    )


def test_hosts_of_the_configuration_of_pip_and_uv_are_private(tmp_path):
    """Wherever they are named; what is commented out, and what everyone knows, is not."""
    pip, uv = tmp_path / "pip.conf", tmp_path / "uv.toml"
    pip.write_text(
        "[global]\nindex-url = https://one.acme.io/simple\n# https://never.acme.io\n"
        "extra-index-url = https://pypi.org/simple\ntrusted-host = two.acme.io\n"
    )
    uv.write_text('[[index]]\nurl = "https://three.acme.io/simple"\n')
    redactor = here({"HOME": "/x/y", "PIP_CONFIG_FILE": str(pip), "UV_CONFIG_FILE": str(uv)})

    assert redactor.text("one.acme.io two.acme.io three.acme.io") == " ".join(["<private address>"] * 3)
    assert redactor.text("never.acme.io pypi.org") == "never.acme.io pypi.org"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("jo@atlas:~$", "<user>@<host>:~$"),
        ("ssh jo@atlas.acme.com", "ssh <user>@<host>"),
        ("uid=1000(jo) gid=1000(jo) user=jo", "uid=1000(<user>) gid=1000(<user>) user=<user>"),
        ("/scratch/jo/x /data/users/jo/x", "/scratch/<user>/x /data/users/<user>/x"),
        ("http://atlas:80/x host=atlas", "http://<host>:80/x host=<host>"),
        ("jo is an atlas of joy", "jo is an atlas of joy"),
        ("/usr/lib/jo/x.py", "/usr/lib/jo/x.py"),
    ],
)
def test_short_names_are_looked_for_where_names_stand(text, shown):
    """A user `jo` on a host `atlas`: in addresses, accounts and the folders of people, not in sentences."""
    assert here({"HOME": "/home/jo", "USER": "jo", "HOSTNAME": "atlas"}).text(text) == shown

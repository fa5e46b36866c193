"""The scripts set themselves up: which Python is taken, what is said where none fits, two at once, argument passing.

Each test runs ``scripts/_env`` in a copy of the repository's skeleton, with a PATH of its own and a ``pip`` that installs
nothing, so that nothing is downloaded.
"""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ("sh", "dirname", "cat", "cksum", "mkdir", "rm", "mv", "sleep", "tail", "sed", "env")
WAIT_S = 100

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sh scripts")

FAKE_VENV_PYTHON = """#!/bin/sh
# Stands for .venv/bin/python: notes what it is asked to do and does nothing.
echo "$@" >>"$NOTES"
exit 0
"""

FAKE_PYTHON = """#!/bin/sh
# Stands for an interpreter of version {version}.
case "$*" in
  --version) echo "Python {version}" ;;
  "-m venv "*) mkdir -p "$3/bin"; : >"$3/pyvenv.cfg"; cp "$FAKE_VENV_PYTHON" "$3/bin/python"; echo "venv by {name}" >>"$NOTES" ;;
  *ensurepip*) [ {fits} = yes ] || {{ echo "{why}"; exit 1; }} ;;
  *) echo {version} ;;
esac
"""


class Checkout:
    """A copy of what the scripts need, and a machine with the interpreters that a test gives it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a checkout"  # a space: quoting is part of the job
        self.home = folder / "home"
        self.path = folder / "bin"
        self.notes = folder / "notes"
        for made in (self.root / "scripts", self.home, self.path):
            made.mkdir(parents=True)
        for name in ("scripts/_env", "scripts/test", "scripts/hatch_build.py", "pyproject.toml"):
            shutil.copy2(ROOT / name, self.root / name)
        (self.root / "scripts" / "probe").write_text('set -eu\n. "$(dirname -- "$0")/_env"\necho "bin=$BIN"\n')
        for tool in (*TOOLS, "cp"):
            (self.path / tool).symlink_to(shutil.which(tool) or f"/bin/{tool}")
        self._write(folder / "venv-python", FAKE_VENV_PYTHON)
        self.env = {
            "PATH": str(self.path),
            "HOME": str(self.home),
            "NOTES": str(self.notes),
            "FAKE_VENV_PYTHON": str(folder / "venv-python"),
        }

    def _write(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def add(self, name: str, version: str, *, fits: bool, why: str = "", folder: Path | None = None) -> None:
        """Put an interpreter on the PATH, or into *folder*."""
        text = FAKE_PYTHON.format(version=version, name=name, fits="yes" if fits else "no", why=why)
        self._write((folder or self.path) / name, text)

    def add_broken(self, name: str) -> None:
        """Put a version manager's shim on the PATH: it exists, and fails."""
        self._write(self.path / name, '#!/bin/sh\necho "pyenv: $0: command not found" >&2\nexit 127\n')

    def run(self, script: str = "probe", *words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["/bin/sh", str(self.root / "scripts" / script), *words],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )

    def made_by(self) -> list[str]:
        lines = self.notes.read_text().splitlines() if self.notes.exists() else []
        return [line.removeprefix("venv by ") for line in lines if line.startswith("venv by ")]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_the_first_python_that_fits_is_taken(checkout: Checkout) -> None:
    checkout.add("python3", "3.11.7", fits=False, why="is cpython 3.11.7")
    checkout.add("python3.12", "3.12.9", fits=True)
    checkout.add("python3.13", "3.13.1", fits=True)

    done = checkout.run()

    assert done.returncode == 0, done.stderr
    assert done.stdout == f"bin={checkout.root}/.venv/bin\n"
    assert checkout.made_by() == ["python3.13"]


def test_a_shim_that_fails_is_not_taken(checkout: Checkout) -> None:
    checkout.add_broken("python3")
    checkout.add_broken("python3.13")
    checkout.add("python3.12", "3.12.1", fits=True)

    assert checkout.run().returncode == 0
    assert checkout.made_by() == ["python3.12"]


def test_versions_on_pyenvs_shelf_are_found_though_not_on_the_path(checkout: Checkout) -> None:
    shelf = checkout.home / ".pyenv" / "versions"
    checkout.add("python3", "2.7.18", fits=False, folder=shelf / "2.7.18" / "bin")
    checkout.add("python3", "3.12.1", fits=True, folder=shelf / "3.12.1" / "bin")

    assert checkout.run().returncode == 0
    assert checkout.made_by() == ["python3"]


def test_uv_is_asked_where_no_python_fits(checkout: Checkout) -> None:
    checkout.add("python3", "3.9.2", fits=False, why="is cpython 3.9.2")
    checkout._write(
        checkout.path / "uv",
        '#!/bin/sh\necho "uv $*" >>"$NOTES"\nfor last; do :; done\n'
        'mkdir -p "$last/bin"; : >"$last/pyvenv.cfg"; cp "$FAKE_VENV_PYTHON" "$last/bin/python"\n',
    )

    assert checkout.run().returncode == 0
    assert "uv venv --quiet --seed --python 3.12" in checkout.notes.read_text()


def test_where_none_fits_it_says_what_it_saw_and_what_is_wanted(checkout: Checkout) -> None:
    checkout.add("python3", "3.11.7", fits=False, why="is cpython 3.11.7")
    checkout.add("python3.12", "3.12.3", fits=False, why="is 3.12 but cannot make environments")
    checkout.add_broken("python3.13")

    done = checkout.run()

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "promptweir needs Python 3.12 or newer (or uv, which can fetch one), and found none that fits:",
        "  python3 is cpython 3.11.7",
        "  python3.13 exists but does not run",
        "  python3.12 is 3.12 but cannot make environments",
        "Install one (https://www.python.org/downloads/ or https://docs.astral.sh/uv/) and run this again.",
    ]
    assert not (checkout.root / ".venv").exists()
    assert not (checkout.root / ".dev" / "env.lock").exists()


def test_the_second_time_nothing_is_said_or_done_until_pyproject_changes(checkout: Checkout) -> None:
    checkout.add("python3", "3.12.1", fits=True)
    checkout.run()
    before = checkout.notes.read_text()

    again = checkout.run()
    assert (again.stdout, again.stderr) == (f"bin={checkout.root}/.venv/bin\n", "")
    assert checkout.notes.read_text() == before

    with (checkout.root / "pyproject.toml").open("a") as file:
        file.write("\n# another dependency\n")
    checkout.run()
    after = checkout.notes.read_text().removeprefix(before)
    assert "-m pip install --disable-pip-version-check -e .[dev]" in after
    assert "venv by" not in after


def test_a_broken_environment_is_made_anew_but_a_foreign_folder_is_left_alone(checkout: Checkout) -> None:
    checkout.add("python3", "3.12.1", fits=True)
    checkout.run()
    (checkout.root / ".venv" / "bin" / "python").unlink()
    assert checkout.run().returncode == 0
    assert checkout.made_by() == ["python3", "python3"]

    shutil.rmtree(checkout.root / ".venv")
    (checkout.root / ".venv").mkdir()
    (checkout.root / ".venv" / "mine").write_text("")
    done = checkout.run()
    assert done.returncode == 2
    assert "is no virtual environment" in done.stderr
    assert (checkout.root / ".venv" / "mine").exists()


def test_two_scripts_at_once_install_once(checkout: Checkout) -> None:
    checkout.add("python3", "3.12.1", fits=True)
    slow = (checkout.path / "python3").read_text().replace('mkdir -p "$3/bin"', 'sleep 1; mkdir -p "$3/bin"')
    (checkout.path / "python3").write_text(slow)
    script = str(checkout.root / "scripts" / "probe")
    both = [
        subprocess.Popen(["/bin/sh", script], env=checkout.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    outputs = [one.communicate(timeout=WAIT_S) for one in both]

    assert [one.returncode for one in both] == [0, 0], outputs
    assert checkout.made_by() == ["python3"]
    assert not (checkout.root / ".dev" / "env.lock").exists()


def test_the_lock_of_a_script_that_was_killed_does_not_block(checkout: Checkout) -> None:
    checkout.add("python3", "3.12.1", fits=True)
    gone = subprocess.Popen(["/bin/true"])
    gone.wait()
    lock = checkout.root / ".dev" / "env.lock"
    lock.mkdir(parents=True)
    (lock / "pid").write_text(f"{gone.pid}\n")

    assert checkout.run().returncode == 0
    assert not lock.exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "-m pytest -m not slow"),
        (("--slow",), "-m pytest -m slow"),
        (("--all", "-q"), "-m pytest -q"),
        (("tests/layers", "-k", "a or b"), "-m pytest -m not slow tests/layers -k a or b"),
    ],
)
def test_scripts_test_chooses_the_suite_and_passes_the_rest_to_pytest(
    checkout: Checkout, words: tuple[str, ...], expected: str
) -> None:
    checkout.add("python3", "3.12.1", fits=True)

    assert checkout.run("test", *words).returncode == 0
    assert checkout.notes.read_text().splitlines()[-1] == expected


def test_every_script_can_be_executed_and_parses() -> None:
    scripts = [path for path in (ROOT / "scripts").iterdir() if not path.suffix and path.name != "__pycache__"]
    for path in [*scripts, ROOT / ".ci" / "run"]:
        text = path.read_text()
        shell = "bash" if "bash" in text.partition("\n")[0] else "sh"
        if shutil.which(shell):
            subprocess.run([shell, "-n", str(path)], check=True)
        assert path.name == "_env" or os.access(path, os.X_OK), path

"""The packages as others get them: wheel, sdist, a wheel built from the sdist, under a type checker, in a bare checkout."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("addons", "layers", "certs", "cli")
WAIT_S = 300

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def run(*words: str | Path, **options: object) -> "subprocess.CompletedProcess[str]":
    done: subprocess.CompletedProcess[str] = subprocess.run(  # type: ignore[call-overload]
        [str(word) for word in words], capture_output=True, text=True, timeout=WAIT_S, check=False, **options
    )
    assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


def sources() -> set[str]:
    """Return the Python files and markers of the four packages, as import paths have them."""
    return {
        f"promptweir/{path.relative_to(ROOT)}"
        for part in PARTS
        for path in (ROOT / part).rglob("*")
        if path.suffix == ".py" or path.name == "py.typed"
    }


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository without anything that was generated."""
    copy = tmp_path_factory.mktemp("packaging") / "checkout"
    skip = shutil.ignore_patterns(
        ".venv", ".git", ".dev", "__pycache__", ".*_cache", ".hypothesis", "dist", "build", ".lab"
    )
    shutil.copytree(ROOT, copy, ignore=skip, symlinks=True)
    return copy


@pytest.fixture(scope="module")
def built(checkout: Path) -> tuple[Path, Path]:
    """A wheel and an sdist."""
    # Without isolation: the build back end is among the dev dependencies, and nothing need be downloaded.
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--sdist", ".", cwd=checkout)
    (wheel,) = (checkout / "dist").glob("*.whl")
    (sdist,) = (checkout / "dist").glob("*.tar.gz")
    return wheel, sdist


@pytest.fixture(scope="module")
def installed(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment in which the wheel is installed.

    The dependencies are this environment's own, made visible by a path file: what is tested is our wheel.
    """
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    run(python, "-m", "pip", "install", "--no-deps", "--no-index", built[0])
    purelib = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip())
    ours = Path(run(sys.executable, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip())
    for entry in ours.iterdir():
        if "promptweir" not in entry.name and not (purelib / entry.name).exists():
            (purelib / entry.name).symlink_to(entry)
    return python


def test_the_wheel_holds_every_source_under_one_name_and_nothing_else(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[0]) as wheel:
        names = set(wheel.namelist())
        metadata = wheel.read(next(name for name in names if name.endswith("METADATA"))).decode()

    assert {name for name in names if ".dist-info/" not in name} == sources()
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert "Requires-Python: >=3.12" in metadata


def test_the_sdist_holds_what_is_needed_to_test_it_and_builds_the_same_wheel(
    built: tuple[Path, Path], tmp_path: Path
) -> None:
    with tarfile.open(built[1]) as sdist:
        sdist.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    for name in ("README.md", "LICENSE", "pyproject.toml", "scripts/_env", "scripts/test", "tests/test_packaging.py"):
        assert (folder / name).is_file(), name
    assert os.access(folder / "scripts" / "test", os.X_OK)

    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", ".", cwd=folder)
    (wheel,) = (folder / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as again, zipfile.ZipFile(built[0]) as first:
        assert sorted(again.namelist()) == sorted(first.namelist())


def test_the_installed_command_runs_from_anywhere(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "promptweir").mkdir()  # a folder of that name in the current directory must not get in the way
    env = {**os.environ, "HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state")}
    promptweir = installed.parent / "promptweir"

    shown = run(promptweir, "--version", cwd=tmp_path, env=env).stdout
    assert re.fullmatch(r"promptweir \d+\.\d+\.\d+\n", shown)
    where = run(installed, "-P", "-c", "import promptweir.layers as it; print(it.__file__)", cwd=tmp_path).stdout
    assert str(installed.parent.parent) in where

    run(promptweir, "up", "--detach", "--port", "0", cwd=tmp_path, env=env)
    try:
        status = json.loads(run(promptweir, "status", "--json", cwd=tmp_path, env=env).stdout)
        assert status["running"]["port"]
        assert status["state"] == str(tmp_path / "state" / "promptweir")
    finally:
        run(promptweir, "stop", cwd=tmp_path, env=env)


def test_the_installed_packages_are_typed_for_those_who_import_them(installed: Path, tmp_path: Path) -> None:
    user = tmp_path / "user.py"
    user.write_text(
        "from promptweir.layers.contract import Pass\n"
        "from promptweir.layers.config import OPTIONS\n"
        "reveal_type(Pass(reason='x').reason)\n"
        "reveal_type(OPTIONS[0].name)\n"
    )
    done = run(
        sys.executable, "-m", "mypy", "--strict", "--python-executable", installed, "--cache-dir", tmp_path / "c", user,
        cwd=tmp_path,
    )  # fmt: skip

    assert done.stdout.count('Revealed type is "str"') + done.stdout.count('Revealed type is "builtins.str"') == 2


def test_an_editable_install_sees_new_files_and_type_checkers_see_it(checkout: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path.endswith("site-packages"))}
    run(python, "-m", "pip", "install", "--no-deps", "--no-index", "--no-build-isolation", "-e", checkout, env=env)
    new = checkout / "layers" / "brand_new.py"
    new.write_text('"""New."""\n\nANSWER: int = 42\n')
    try:
        clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        # layers/__init__ must not need a dependency for this: the environment has none.
        code = "import importlib.util as u; print(u.find_spec('promptweir.layers').origin)"
        assert str(checkout) in run(python, "-c", code, env=clean, cwd=tmp_path).stdout
        user = tmp_path / "user.py"
        user.write_text("from promptweir.layers.brand_new import ANSWER\nreveal_type(ANSWER)\n")
        words = ["--python-executable", python, "--cache-dir", tmp_path / "cache", user]
        assert 'Revealed type is "' in run(sys.executable, "-m", "mypy", *words, cwd=tmp_path, env=clean).stdout
    finally:
        new.unlink()


@pytest.fixture
def mitmdump(installed: Path, built: tuple[Path, Path], checkout: Path, tmp_path: Path) -> Iterator[int]:
    """Stock mitmdump with the addon from a checkout into which nothing was installed; its port."""
    del built
    run(installed, "-m", "pip", "uninstall", "-y", "promptweir")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    log = (tmp_path / "log").open("w+")
    code = "import sys; from mitmproxy.tools.main import mitmdump; mitmdump(sys.argv[1:])"
    words = ["-s", checkout / "addons" / "promptweir.py", "--listen-host", "127.0.0.1", "-p", port]
    words += ["--set", f"confdir={tmp_path / 'conf'}", "--set", f"promptweir_state={tmp_path / 'state'}"]
    process = subprocess.Popen(
        [str(word) for word in (installed, "-P", "-c", code, *words)], cwd=tmp_path, stdout=log, stderr=log
    )
    try:
        for _ in range(600):
            with socket.socket() as probe:
                probe.settimeout(0.1)
                # mitmproxy loads scripts a moment after it listens; the store is the addon's.
                if probe.connect_ex(("127.0.0.1", port)) == 0 and (tmp_path / "state" / "cache").is_dir():
                    break
            assert process.poll() is None, Path(log.name).read_text()
            time.sleep(0.1)
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        log.seek(0)
        said = log.read()
        log.close()
        assert "Traceback" not in said, said


def test_mitmdump_runs_the_addon_from_a_bare_checkout(mitmdump: int) -> None:
    with socket.create_connection(("127.0.0.1", mitmdump), timeout=20) as client:
        body = b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"hi"}]}'
        client.sendall(
            b"POST http://api.openai.com/v1/chat/completions HTTP/1.1\r\nHost: api.openai.com\r\n"
            b"Authorization: Bearer sk-test\r\nContent-Type: application/json\r\nX-Promptweir-Cache: only\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        answer = client.recv(65536)

    # Only the addon answers so: it may not ask the provider, and there is nothing in the cache.
    assert answer.startswith(b"HTTP/1.1 504"), answer

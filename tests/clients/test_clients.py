"""The main promise, with the programs people really run: what was asked once is answered again without the provider.

Every agent reads a file of a small repository and answers.  It is then asked the same in a new session, in another
directory with the same content, and from another home: nothing may reach the provider, and the user must see the same.
What differs in anything that could change the answer must reach it.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from tests.clients.harness import CLIENTS, FILES, OTHER_PROMPT, Client, Lab, Missing, Outcome, make_repo

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A lab in which the question has been asked once."""

    lab: Lab
    here: Path
    home: Path
    cold: Outcome

    @property
    def client(self) -> Client:
        return self.lab.client

    def told(self, outcome: Outcome, cwd: Path) -> str:
        """Return what the user saw, with the working directory's name taken out."""
        return self.client.stable(outcome.stdout).replace(str(cwd), "<cwd>")


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=CLIENTS, ids=lambda client: client.name)
async def asked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Asked]:
    client: Client = request.param
    lab = Lab(client=client, folder=tmp_path_factory.mktemp(client.name))
    try:
        await lab.start()
    except Missing as reason:
        pytest.skip(str(reason))
    try:
        here, home = make_repo(lab.folder / "work" / "here"), lab.folder / "homes" / "ann"
        yield Asked(lab=lab, here=here, home=home, cold=await lab.run(here, home))
    finally:
        await lab.stop()


def assert_deflected(asked: Asked, warm: Outcome, cwd: Path, before: dict[str, int]) -> None:
    after = asked.lab.stats()

    assert [f"{call.method} {call.path}" for call in warm.calls] == []
    assert warm.code == asked.cold.code
    assert asked.told(warm, cwd) == asked.told(asked.cold, asked.here)
    assert after["deflected"] - before["deflected"] == after["calls"] - before["calls"] > 0


async def test_a_first_question_reaches_the_provider_and_is_answered(asked):
    assert asked.cold.code == 0, asked.cold.stderr[-2000:]
    assert asked.cold.calls
    assert "nswer " in asked.cold.stdout


async def test_a_new_session_needs_no_provider(asked):
    before = asked.lab.stats()

    warm = await asked.lab.run(asked.here, asked.home)

    assert_deflected(asked, warm, asked.here, before)


async def test_another_directory_with_the_same_content_needs_no_provider(asked):
    before = asked.lab.stats()
    there = make_repo(asked.lab.folder / "elsewhere" / "my_App.v2")

    warm = await asked.lab.run(there, asked.home)

    assert_deflected(asked, warm, there, before)


async def test_another_home_needs_no_provider(asked):
    before = asked.lab.stats()

    warm = await asked.lab.run(asked.here, asked.lab.folder / "homes" / "bob")

    assert_deflected(asked, warm, asked.here, before)


async def test_another_prompt_is_a_miss(asked):
    other = await asked.lab.run(asked.here, asked.home, prompt=OTHER_PROMPT)

    assert other.calls
    assert other.code == 0
    assert asked.told(other, asked.here) != asked.told(asked.cold, asked.here)


async def test_a_changed_file_is_a_miss(asked):
    changed = {**FILES, "hello.py": FILES["hello.py"].replace("Hello", "Good morning")}
    there = make_repo(asked.lab.folder / "changed" / "here", changed)

    other = await asked.lab.run(there, asked.home)

    assert other.calls
    assert other.code == 0
    assert asked.told(other, there) != asked.told(asked.cold, asked.here)


async def test_another_model_is_a_miss(asked):
    other = await asked.lab.run(asked.here, asked.home, model=asked.client.other_model)

    assert other.calls
    assert other.code == 0
    assert asked.told(other, asked.here) != asked.told(asked.cold, asked.here)


async def test_another_key_gets_nothing_of_the_first_one_s(asked):
    other = await asked.lab.run(asked.here, asked.home, key=asked.client.other_key)

    assert len(other.calls) == len(asked.cold.calls)
    assert other.code == 0
    assert asked.told(other, asked.here) == asked.told(asked.cold, asked.here)

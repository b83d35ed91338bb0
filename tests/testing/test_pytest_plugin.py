"""The pytest plugin as other projects use it: a pytest of its own, in a folder outside of this project."""

import os
import sys
from pathlib import Path

import pytest

from agentbus.config.loading import URL_VARIABLE
from support.harness import Ran, run_python

CONFTEST = 'pytest_plugins = ["agentbus.testing.pytest_plugin"]\n'

IN_PLAIN_TESTS = """
import asyncio
import os
import agentbus

async def ask(agent):
    async with agentbus.connect() as bus:
        task = await bus.publish(agent, "hello")
        return await task.result(30)

def test_a_plain_test(agentbus_bus, agentbus_fake_agent):
    assert os.environ["AGENTBUS_NATS_URL"] == agentbus_bus.url
    code, doc = agentbus_fake_agent(), agentbus_fake_agent("doc", concurrency=2)
    doc.fail("no")
    assert asyncio.run(ask("code")).result == "done"
    assert asyncio.run(ask("doc")).status == "failed"
    assert len(code.received()) == len(doc.received()) == 1

def test_another_test_has_a_bus_of_its_own(agentbus_bus):
    async def known():
        async with agentbus.connect() as bus:
            return (await bus.list_tasks()).tasks
    assert asyncio.run(known()) == []
"""

IN_ASYNC_TESTS = """
import agentbus
import pytest

@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.mark.MARK
async def test_an_async_test(agentbus_fake_agent):
    agentbus_fake_agent("code").answer("fine")
    async with agentbus.connect() as bus:
        task = await bus.publish("code", "hello")
        assert (await task.result(30)).result == "fine"
"""


async def run_pytest(folder: Path, test: str, *options: str) -> Ran:
    (folder / "conftest.py").write_text(CONFTEST, encoding="utf-8")
    (folder / "test_program.py").write_text(test, encoding="utf-8")
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n", encoding="utf-8")
    return await run_python("-m", "pytest", "-q", "-p", "no:cacheprovider", *options, cwd=folder)


async def test_plain_tests_have_a_bus_each_and_agents_that_answer_as_told(tmp_path: Path) -> None:
    ran = await run_pytest(tmp_path, IN_PLAIN_TESTS, "-p", "no:asyncio", "-p", "no:anyio")
    assert ran.code == 0, ran.out
    assert "2 passed" in ran.out


@pytest.mark.parametrize(
    ("mark", "options"),
    [
        ("asyncio", ("-p", "no:anyio", "-o", "asyncio_default_fixture_loop_scope=function")),
        ("anyio", ("-p", "no:asyncio")),
    ],
)
async def test_async_tests_of_either_plugin_use_the_same_fixtures(
    tmp_path: Path, mark: str, options: tuple[str, ...]
) -> None:
    ran = await run_pytest(tmp_path, IN_ASYNC_TESTS.replace("MARK", mark), *options)
    assert ran.code == 0, ran.out + ran.err
    assert "1 passed" in ran.out


async def test_without_the_plugin_the_package_adds_no_fixture(tmp_path: Path) -> None:
    ran = await run_python("-m", "pytest", "-q", "--fixtures", "-p", "no:cacheprovider", cwd=tmp_path)
    assert "agentbus" not in ran.out
    assert URL_VARIABLE not in os.environ
    assert "agentbus.testing.pytest_plugin" not in sys.modules

from __future__ import annotations

import socket

import pytest

from nas.distributed import ray as ours
from nas.distributed.ray import RayConfig, check_address, cluster
from search_spaces import UserError


@pytest.mark.parametrize("address", ["127.0.0.1:1", "rubbish", "host:port", "127.0.0.1:99999"])
def test_an_address_where_nothing_is(address: str) -> None:
    with pytest.raises(
        UserError, match=rf"^no Ray cluster at --ray-address {address}: .*; give host:port of one"
    ) as one:
        check_address(address)
    assert "\n" not in str(one.value)


def test_a_host_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(address: tuple[str, int], timeout: float) -> socket.socket:
        assert (address, timeout) == (("nohost.invalid", 6379), ours.CONNECT_SECONDS)
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(UserError, match=r"no Ray cluster at --ray-address nohost.invalid:6379: timed out; give host"):
        check_address("nohost.invalid:6379")


def test_an_address_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "ANSWER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = "127.0.0.1:{1}".format(*server.getsockname())
        with pytest.raises(
            UserError, match=f"no Ray cluster at --ray-address {address}: what is there does not answer"
        ):
            check_address(address)


def test_more_workers_than_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    fakes = {"init": lambda **_: None, "shutdown": lambda: None, "cluster_resources": lambda: {"CPU": 1.0}}
    for name, fake in fakes.items():
        monkeypatch.setattr(ray, name, fake)
    with cluster(RayConfig(ray_workers=1), "cpu") as resources:
        assert resources == {"num_cpus": 1, "num_gpus": 0}
        few = r"--ray-workers is 7, the Ray cluster has 1 CPUs; give at most that"
        with pytest.raises(UserError, match=few), cluster(RayConfig(ray_workers=7), "cpu"):
            pass

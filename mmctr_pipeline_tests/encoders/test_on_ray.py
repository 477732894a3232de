"""Encoding on a real Ray cluster of two nodes gives the files of a local run, byte for byte."""

import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmctr_pipeline_tests.data.served_folder import served
from mmctr_pipeline_tests.encoders.on_ray_runs import (
    N_SHARDS,
    NUMBERS,
    RESULT,
    encode_locally,
    first_numbers,
    read_journal,
    start,
)
from mmctr_pipeline_tests.encoders.store.vector_store_runs import shard_files
from mmctr_pipeline_tests.ray_cluster import RayCluster, ray_cluster

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

TIMEOUT_SECONDS = 240


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with ray_cluster() as cluster:
        yield cluster


def shards(folder: Path) -> dict[str, bytes]:
    """Return the content of each shard of a vector store."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in shard_files(folder)}


def output(process: "subprocess.Popen[str]") -> tuple[str, str]:
    """Return the result that a process prints, "" if there is none, and the end of its errors."""
    try:
        printed, errors = process.communicate(timeout=TIMEOUT_SECONDS)
    finally:
        process.kill()
    results = [line for line in printed.splitlines() if line.startswith(RESULT)]
    return "".join(results).removeprefix(RESULT), errors[-4000:]


def test_titles_and_covers_get_the_vectors_of_a_local_run(
    cluster: RayCluster, small_sample: Path, tmp_path: Path
) -> None:
    def encode(compute: str, url: str) -> "subprocess.Popen[str]":
        call = (
            f"encode_sample({str(small_sample)!r}, {str(tmp_path / compute)!r}, *{(compute, url)})"
        )
        # Ray gives each actor of one CPU one thread.
        return start(cluster, call, OMP_NUM_THREADS="1")

    with served(small_sample / "item_images", "http") as url:
        for run in (encode("local", ""), encode("ray", url)):
            printed, errors = output(run)
            assert printed == "done", errors
    assert "on 2 actors" in errors
    assert len(shards(tmp_path / "ray")) > 10
    assert shards(tmp_path / "ray") == shards(tmp_path / "local")


def test_shards_of_a_killed_node_are_encoded_by_the_others(
    cluster: RayCluster, tmp_path: Path
) -> None:
    extra = cluster.start_node()
    journal = tmp_path / "journal"
    process = start(cluster, f"encode_numbers({str(tmp_path / 'ray')!r}, {str(journal)!r}, 'slow')")
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while Counter(read_journal(journal))[extra.address] < 3:
        assert process.poll() is None, output(process)
        assert time.monotonic() < deadline
        time.sleep(0.05)
    cluster.kill(extra)
    assert len(set(read_journal(journal))) > 1
    printed, errors = output(process)
    assert printed == f"encoded {len(NUMBERS)}", errors
    assert len(read_journal(journal)) > N_SHARDS  # some began twice
    encode_locally(tmp_path / "local")
    assert shards(tmp_path / "ray") == shards(tmp_path / "local")


def test_shard_of_a_killed_actor_is_encoded_again(cluster: RayCluster, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    call = f"encode_numbers({str(tmp_path / 'ray')!r}, {str(journal)!r}, 'dies once')"
    printed, errors = output(start(cluster, call))
    assert printed == f"encoded {len(NUMBERS)}", errors
    assert len(read_journal(journal, first_numbers()[2])) == 2
    encode_locally(tmp_path / "local")
    assert shards(tmp_path / "ray") == shards(tmp_path / "local")


def test_an_error_of_the_encoder_keeps_its_class_and_names_the_node(
    cluster: RayCluster, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    call = f"encode_numbers({str(tmp_path / 'ray')!r}, {str(journal)!r}, 'fails')"
    printed, errors = output(start(cluster, call))
    assert printed.startswith("SettingsError: cannot encode "), errors
    assert printed.endswith(tuple(f"(on the Ray node {node.address})" for node in cluster.nodes))
    assert "in encode\n" in errors  # the traceback of the actor
    # No shard is tried again: each actor has at most one more on its way.
    assert max(Counter(journal.read_text().splitlines()).values()) == 1
    assert shards(tmp_path / "ray") == {}


def test_a_node_with_another_encoder_is_refused(cluster: RayCluster, tmp_path: Path) -> None:
    call = f"encode_numbers({str(tmp_path / 'ray')!r}, {str(tmp_path / 'journal')!r}, '')"
    printed, errors = output(start(cluster, call, WEIGHTS_HASH="f" * 64))
    assert printed.startswith(
        "OtherEncoderError: this node has the encoder small:numbers:000000000000:1:float32, but "
        "the others have small:numbers:ffffffffffff:1:float32. Fix: "
    ), errors
    assert any(f"(on the Ray node {node.address})" in printed for node in cluster.nodes)


def test_a_node_without_the_packages_is_an_error_in_one_line(
    cluster: RayCluster, tmp_path: Path
) -> None:
    call = f"encode_numbers({str(tmp_path / 'ray')!r}, {str(tmp_path / 'journal')!r}, 'only here')"
    printed, errors = output(start(cluster, call))
    assert printed.startswith("RayEncodingError: encoding on Ray failed: "), errors
    assert "No module named 'a_module_that_no_node_has'" in printed
    assert "Fix: give all nodes the same packages" in printed


def test_actors_with_gpus_say_which_encoder_it_is(cluster: RayCluster, tmp_path: Path) -> None:
    extra, journal = cluster.start_node(n_gpus=1), tmp_path / "journal"
    try:
        call = f"encode_numbers({str(tmp_path / 'ray')!r}, {str(journal)!r}, '')"
        printed, errors = output(start(cluster, call, WEIGHTS_HASH="f" * 64))
    finally:
        cluster.kill(extra)
    assert printed == f"encoded {len(NUMBERS)}", errors
    assert "on 1 actor, with one GPU each" in errors
    assert set(read_journal(journal)) == {extra.address}
    encode_locally(tmp_path / "local")
    assert shards(tmp_path / "ray") == shards(tmp_path / "local")


def test_a_wrong_token_is_refused(cluster: RayCluster, tmp_path: Path) -> None:
    call = f"encode_numbers({str(tmp_path / 'ray')!r}, {str(tmp_path / 'journal')!r}, '')"
    printed, _ = output(start(cluster, call, RAY_AUTH_TOKEN="a" * 32))
    assert printed.startswith(
        f"DeploymentError: RAY_ADDRESS is '{cluster.variables['RAY_ADDRESS']}'"
    )
    assert "token is missing or incorrect" in printed
    assert "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to its token" in printed

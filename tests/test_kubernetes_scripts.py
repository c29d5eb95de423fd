"""deploy.sh and cleanup.sh against a kubectl that only writes down what it is asked."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .processes import needs

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "infra/kubernetes"
SCRIPTS = sorted(FOLDER.glob("*.sh"))

#: Writes its arguments to $FOLDER/calls and its input to $FOLDER/input-N; answers as a cluster on which Readmit runs.
KUBECTL = """#!/bin/bash
calls=$FOLDER/calls
(flock 9; echo "$*" >&9) 9>>"$calls"  # a long line is several writes, and another call may come between
case "$*" in
    kustomize*) printf 'kind: Deployment\\nspec:\\n  - image: readmit/ui:0.1.0\\n    imagePullPolicy: Never\\n' ;;
    *"apply"*) cat >"$FOLDER/input-$(wc -l <"$calls")" ;;
    *"create secret"*) echo "kind: Secret" ;;
    "get namespace"*) [ ! -e "$FOLDER/empty" ] || exit 1; echo namespace/mlops-project ;;
    *"get secret"*) [ -e "$FOLDER/empty" ] || wc -l <"$FOLDER/secret-versions"
                    [ ! -e "$FOLDER/rotated" ] || echo 1 >>"$FOLDER/secret-versions" ;;
    *"get deployment inference"*) cat "$FOLDER/serving" ;;
    *"get jobs --output jsonpath"*) printf 'topics Complete\\ndatabase \\nbucket FailureTarget Failed\\n' ;;
    *"get jobs --output name"*) printf 'job.batch/topics\\njob.batch/database\\n' ;;
    *"get deployments,statefulsets"*) printf 'deployment.apps/inference\\nstatefulset.apps/kafka\\n' ;;
    *"get services"*) printf 's3 30382 30901\\nui 30602\\n' ;;
    "get nodes --selector readmit.io/role=$WITHOUT "*) ;;
    "get nodes --output jsonpath"*) echo 192.0.2.7 ;;
    "get nodes"*) printf 'node/one\\nnode/two\\n' ;;
    *"wait --for=condition=complete job.batch/$STUCK "*) exit 1 ;;
esac
"""


class Cluster:
    """A folder with a kubectl, what it was asked, and secrets."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        kubectl = folder / "bin/kubectl"
        kubectl.write_text(KUBECTL)
        kubectl.chmod(0o755)
        self.put("serving", "2")
        self.put("secret-versions", "1\n")
        self.environment = {
            "PATH": f"{folder / 'bin'}:{Path(sys.executable).parent}:/usr/bin:/bin",
            "FOLDER": str(folder),
            "READMIT_SECRETS": str(folder / "secrets"),
            "WITHOUT": "nothing",
            "STUCK": "nothing",
        }

    def put(self, name: str, text: str = "") -> None:
        (self.folder / name).write_text(text)

    def make_secrets(self) -> None:
        (self.folder / "secrets").mkdir()
        names = subprocess.run(
            [sys.executable, ROOT / "infra/secrets/generate.py", "--names"], capture_output=True, text=True, check=True
        )
        for name in names.stdout.split():
            self.put(f"secrets/{name}", "hush")

    def run(self, script: str, *options: str, answer: str = "") -> tuple[int, str, list[str]]:
        """Exit code, what was printed, and the calls of this run."""
        (self.folder / "calls").write_text("")
        done = subprocess.run(
            [FOLDER / script, *options],
            env=self.environment, input=answer, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr, (self.folder / "calls").read_text().splitlines()

    def inputs(self) -> list[str]:
        return [path.read_text() for path in sorted(self.folder.glob("input-*"), key=lambda p: int(p.name[6:]))]


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


@pytest.fixture
def ready(cluster: Cluster) -> Cluster:
    cluster.make_secrets()
    return cluster


def place(calls: list[str], *words: str) -> int:
    """Where the one call with these words stands."""
    (found,) = [number for number, call in enumerate(calls) if all(word in call for word in words)]
    return found


def test_deploying_renders_makes_the_secret_clears_ended_jobs_applies_and_waits_in_this_order(ready: Cluster) -> None:
    ready.put("empty")
    code, output, calls = ready.run("deploy.sh")
    assert code == 0, output
    order = [
        place(calls, "kustomize", "--load-restrictor LoadRestrictionsNone", "overlays/single-node"),
        place(calls, "create namespace mlops-project"),
        place(calls, "create secret generic readmit-secrets", "--dry-run=client"),
        place(calls, "delete job topics"),
        place(calls, "delete job bucket"),
        calls.index("apply --server-side --force-conflicts --filename -"),
        place(calls, "wait --for=condition=complete job.batch/topics"),
        place(calls, "wait --for=condition=complete job.batch/database"),
        place(calls, "rollout status deployment.apps/inference"),
        place(calls, "rollout status statefulset.apps/kafka"),
    ]
    assert order == sorted(order)
    assert not [call for call in calls if "delete job database" in call], "a Job that runs is left alone"
    assert not [call for call in calls if "rollout restart" in call]
    assert ready.inputs()[0] == "kind: Secret\n"
    assert "image: readmit/ui:0.1.0" in ready.inputs()[1]
    assert "http://192.0.2.7:30602" in output
    assert "http://192.0.2.7:30901" in output


def test_every_secret_is_a_key_and_none_is_shown_or_kept_in_an_annotation(ready: Cluster) -> None:
    _, output, calls = ready.run("deploy.sh")
    made = calls[place(calls, "create secret generic")]
    names = {path.name for path in (ready.folder / "secrets").iterdir()}
    assert {word.split("=")[1] for word in made.split() if word.startswith("--from-file")} == names
    assert "hush" not in output + "".join(calls)
    assert all("--server-side" in call for call in calls if " apply " in f" {call} ")


def test_deploying_again_does_the_same_again(ready: Cluster) -> None:
    code, output, calls = ready.run("deploy.sh")
    again = ready.run("deploy.sh")
    assert (code, output) == again[:2]
    assert sorted(calls) == sorted(again[2]), "two of them run at the same time, as the ends of a pipe"
    assert code == 0
    assert not [call for call in calls if "create namespace" in call], "it is there already"


def test_what_runs_is_restarted_after_the_jobs_when_a_secret_has_changed(ready: Cluster) -> None:
    ready.put("rotated")
    code, _, calls = ready.run("deploy.sh")
    assert code == 0
    assert (
        place(calls, "wait --for=condition=complete job.batch/database")
        < place(calls, "rollout restart statefulset.apps/kafka")
        < place(calls, "rollout status statefulset.apps/kafka")
    )


def test_a_new_platform_is_not_held_up_by_pods_that_wait_for_the_first_model(ready: Cluster) -> None:
    ready.put("serving", "")
    code, output, calls = ready.run("deploy.sh")
    assert code == 0
    assert not [call for call in calls if "rollout status deployment.apps/inference" in call]
    assert "not waiting for deployment.apps/inference" in output


def test_a_job_that_does_not_end_well_ends_the_script_with_where_to_look(ready: Cluster) -> None:
    ready.environment["STUCK"] = "database"
    code, output, calls = ready.run("deploy.sh")
    assert code == 2
    assert "logs job.batch/database" in output
    assert not [call for call in calls if "rollout status" in call]


@pytest.mark.parametrize("overlay", ["single-node", "three-vms"])
def test_a_dry_run_only_renders_and_needs_neither_cluster_nor_secrets(cluster: Cluster, overlay: str) -> None:
    options = ["--data", "one", "--registry", "localhost:32000"] if overlay == "three-vms" else []
    code, output, calls = cluster.run("deploy.sh", "--overlay", overlay, "--dry-run", *options, "--addons")
    assert code == 0, output
    assert [call.split()[0] for call in calls] == ["kustomize"]
    assert calls[0].endswith(f"overlays/{overlay}")
    assert "would run: kubectl apply --server-side" in output
    assert "make secrets" in output
    assert ("would run: kubectl label node one readmit.io/role=data" in output) == (overlay == "three-vms")


def test_without_secrets_nothing_is_asked_of_the_cluster_and_the_next_step_is_said(cluster: Cluster) -> None:
    code, output, calls = cluster.run("deploy.sh")
    assert code == 2
    assert "make secrets" in output
    assert not calls


def test_one_missing_secret_is_named(ready: Cluster) -> None:
    (ready.folder / "secrets/jupyter_token").unlink()
    code, output, calls = ready.run("deploy.sh")
    assert (code, calls) == (2, [])
    assert "no secret jupyter_token" in output


def test_without_kubectl_the_next_step_is_said(ready: Cluster, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for program in ("bash", "dirname", "basename", "env"):
        (bare / program).symlink_to(Path("/usr/bin") / program)
    ready.environment["PATH"] = str(bare)
    for script in ("deploy.sh", "cleanup.sh"):
        code, output, _ = ready.run(script)
        assert code == 2
        assert "install MicroK8s" in output


def test_microk8s_own_kubectl_comes_first_and_addons_are_enabled_only_where_they_are_off(ready: Cluster) -> None:
    microk8s = ready.folder / "bin/microk8s"
    microk8s.write_text(
        '#!/bin/bash\nif [ "$1" = kubectl ]; then shift; exec kubectl "$@"; fi\necho "microk8s $*" >>"$FOLDER/calls"\n'
        '[ "$1" != status ] || { [ "$3" = dns ] && echo enabled || echo disabled; }\n'
    )
    microk8s.chmod(0o755)
    code, output, calls = ready.run("deploy.sh", "--addons")
    assert code == 0, output
    assert [call for call in calls if call.startswith("microk8s enable")] == [
        "microk8s enable hostpath-storage",
        "microk8s enable metrics-server",
    ]
    _, output, _ = ready.run("deploy.sh", "--dry-run")
    assert "would run: microk8s kubectl apply" in output


def test_nodes_get_their_roles_before_anything_is_applied(ready: Cluster) -> None:
    options = ["--overlay", "three-vms", "--data", "one", "--inference", "two", "--observation", "three"]
    code, output, calls = ready.run("deploy.sh", *options)
    assert code == 0, output
    for node, role in (("one", "data"), ("two", "inference"), ("three", "observation")):
        labelled = calls.index(f"label node {node} readmit.io/role={role} --overwrite")
        assert labelled < place(calls, "create secret")


def test_a_role_without_a_node_is_refused_before_anything_is_applied(ready: Cluster) -> None:
    ready.environment["WITHOUT"] = "inference"
    code, output, calls = ready.run("deploy.sh", "--overlay", "three-vms")
    assert code == 2
    assert "--inference NODE" in output
    assert "node/one" in output
    assert not [call for call in calls if "apply" in call]


def test_images_of_ours_and_no_others_come_from_the_registry_that_is_given(ready: Cluster) -> None:
    code, output, _ = ready.run("deploy.sh", "--registry", "localhost:32000")
    assert code == 0, output
    assert "image: localhost:32000/readmit/ui:0.1.0" in ready.inputs()[1]
    assert "imagePullPolicy: IfNotPresent" in ready.inputs()[1]


def test_without_a_registry_nobody_elses_image_of_the_same_name_is_fetched(ready: Cluster) -> None:
    assert ready.run("deploy.sh")[0] == 0
    assert "imagePullPolicy: Never" in ready.inputs()[1]


def test_images_are_loaded_under_their_full_name_and_before_anything_is_applied(ready: Cluster) -> None:
    for program, does in (("microk8s", 'if [ "$1" = kubectl ]; then shift; exec kubectl "$@"; fi'), ("engine", "")):
        path = ready.folder / "bin" / program
        path.write_text(
            f'#!/bin/bash\n{does}\necho "{program} $*" >>"$FOLDER/calls"\n'
            'case "$1" in\n'
            '    save) echo layers ;; images) cat >"$FOLDER/loaded" ;; tag) [ ! -e "$FOLDER/unbuilt" ] ;;\nesac\n'
        )
        path.chmod(0o755)
    ready.environment["READMIT_CONTAINER_ENGINE"] = "engine"
    code, output, calls = ready.run("deploy.sh", "--load-images")
    assert code == 0, output
    tagged = calls.index("engine tag readmit/ui:0.1.0 docker.io/readmit/ui:0.1.0")
    assert {"engine save docker.io/readmit/ui:0.1.0", "microk8s images import"} <= set(calls[tagged:])
    assert calls.index("microk8s images import") < place(calls, "create secret")
    assert (ready.folder / "loaded").read_text() == "layers\n"
    ready.put("unbuilt")
    code, output, calls = ready.run("deploy.sh", "--load-images")
    assert code == 2
    assert "make images" in output
    assert not [call for call in calls if "apply" in call]


@pytest.mark.parametrize(
    "options",
    [
        ["--overlay", "two-vms"], ["--data", "one"], ["--overlay"], ["--what"], ["--timeout", "soon"],
        ["--registry", "localhost:32000", "--load-images"],
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(ready: Cluster, options: list[str]) -> None:
    code, _, calls = ready.run("deploy.sh", *options)
    assert (code, calls) == (2, [])


def test_cleaning_up_takes_the_workloads_and_keeps_volumes_and_namespace(ready: Cluster) -> None:
    code, output, calls = ready.run("cleanup.sh")
    assert code == 0, output
    deleted = [call for call in calls if " delete " in f" {call} "]
    assert any("deployments,statefulsets,jobs" in call for call in deleted)
    assert not [call for call in calls if "persistentvolumeclaims" in call or "delete namespace" in call]
    assert not [call for call in deleted if "--namespace mlops-project" not in call]
    assert "volumes are kept" in output


def test_data_are_deleted_only_when_it_is_said_twice(ready: Cluster) -> None:
    for answer in ("", "yes\n"):
        code, output, calls = ready.run("cleanup.sh", "--delete-data", answer=answer)
        assert code == 2
        assert "nothing was deleted" in output
        assert calls == []
    by_name = ready.run("cleanup.sh", "--delete-data", answer="mlops-project\n")
    by_option = ready.run("cleanup.sh", "--delete-data", "--yes")
    for code, output, calls in (by_name, by_option):
        assert code == 0, output
        order = [
            place(calls, "deployments,statefulsets,jobs"),
            place(calls, "delete persistentvolumeclaims"),
            place(calls, "delete namespace mlops-project"),
        ]
        assert order == sorted(order)


def test_cleaning_up_asks_nothing_in_a_dry_run_and_deletes_nothing_where_nothing_is(ready: Cluster) -> None:
    code, output, calls = ready.run("cleanup.sh", "--delete-data", "--dry-run")
    assert (code, calls) == (0, [])
    assert "would run: kubectl delete namespace mlops-project" in output
    kubectl = ready.folder / "bin/kubectl"
    kubectl.write_text('#!/bin/bash\necho "$*" >>"$FOLDER/calls"\n')
    code, output, calls = ready.run("cleanup.sh")
    assert code == 0
    assert "nothing to delete" in output
    assert [call.split()[0] for call in calls] == ["get"]


@pytest.mark.parametrize("script", ["deploy.sh", "cleanup.sh"])
def test_help_names_every_option(cluster: Cluster, script: str) -> None:
    code, output, calls = cluster.run(script, "--help")
    assert (code, calls) == (0, [])
    cases = re.findall(r"^ +(--[a-z |-]+)\)", (FOLDER / script).read_text(), re.MULTILINE)
    options = {option for case in cases for option in case.split(" | ")}
    assert options
    assert not [option for option in options if option not in output]


def test_shellcheck_has_nothing_to_say() -> None:
    program = needs("shellcheck", required_as="kubernetes")
    found = subprocess.run([program, "-x", *SCRIPTS], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout
    assert all(os.access(FOLDER / script, os.X_OK) for script in ("deploy.sh", "cleanup.sh"))

"""The overlays as kubectl renders them: valid for three versions of Kubernetes, true to the code and to themselves."""

from __future__ import annotations

import copy
import subprocess
from collections.abc import Callable
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from readmit_trainer.domain import FAMILIES, consumer_group

from . import kubernetes_checks as checks
from . import kubernetes_network as network
from .kubernetes_documents import Document, Documents, named, of_kind, references, workloads
from .processes import needs, snippet

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "infra/kubernetes"
VERSIONS = ("1.32", "1.34", "1.36")
OVERLAYS = ("single-node", "three-vms")
#: Kinds that a cluster learns from KEDA; no version of Kubernetes has a schema of them.
KEDA = ("ScaledObject",)

Check = Callable[[Documents], list[str]]
Fault = Callable[[Documents], None]


@cache
def rendered(folder: Path) -> Documents:
    kubectl = needs("kubectl", required_as="kubernetes")
    done = subprocess.run(
        [kubectl, "kustomize", "--load-restrictor", "LoadRestrictionsNone", folder],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.load_all(done.stdout, yaml.CSafeLoader) if document]


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> Documents:
    return rendered(FOLDER / "overlays" / request.param)


@pytest.fixture
def three_vms() -> Documents:
    """A copy, to plant faults in."""
    return copy.deepcopy(rendered(FOLDER / "overlays/three-vms"))


@pytest.fixture(scope="module")
def with_keda(tmp_path_factory: pytest.TempPathFactory) -> Documents:
    return with_component("autoscaling-keda", tmp_path_factory.mktemp("with-keda"))


@pytest.fixture(scope="module")
def with_api_keys(tmp_path_factory: pytest.TempPathFactory) -> Documents:
    return with_component("api-keys", tmp_path_factory.mktemp("with-api-keys"))


def with_component(name: str, folder: Path) -> Documents:
    (folder / "kustomization.yaml").write_text(
        yaml.safe_dump(
            {
                "apiVersion": "kustomize.config.k8s.io/v1beta1",
                "kind": "Kustomization",
                "namespace": "mlops-project",
                "resources": [_from(folder, "overlays/single-node")],
                "components": [_from(folder, f"components/{name}")],
            }
        )
    )
    return rendered(folder)


def _from(folder: Path, name: str) -> str:
    """Kustomize takes no absolute paths."""
    return "/".join([".."] * (len(folder.resolve().parts) - 1)) + str((FOLDER / name).resolve())


def get(documents: Documents, kind: str, name: str) -> Document:
    return named(documents, kind)[name]


def pod(documents: Documents, name: str, kind: str = "Deployment") -> Any:
    return get(documents, kind, name)["spec"]["template"]["spec"]


def container(documents: Documents, name: str, kind: str = "Deployment") -> Any:
    return pod(documents, name, kind)["containers"][0]


def secrets_of(documents: Documents, name: str) -> Any:
    (volume,) = [volume for volume in pod(documents, name)["volumes"] if "secret" in volume]
    return volume["secret"]


def drop(documents: Documents, kind: str, name: str) -> None:
    documents.remove(get(documents, kind, name))


def policy(documents: Documents, name: str) -> Any:
    return get(documents, "NetworkPolicy", name)["spec"]


#: Each check, and faults that it must find: what is done to the documents, and a word of the problem.
FAULTS: list[tuple[Check, str, Fault]] = [
    (checks.names_are_unique_and_in_the_namespace, "stands twice", lambda d: d.append(d[-1])),
    (checks.names_are_unique_and_in_the_namespace, "not in", lambda d: d[-1]["metadata"].update(namespace="default")),
    (checks.selectors_match_pods, "other pods than its own",
     lambda d: get(d, "Deployment", "ui")["spec"]["selector"]["matchLabels"].update({"app.kubernetes.io/name": "iu"})),
    (checks.selectors_match_pods, "leads to no pod",
     lambda d: get(d, "Service", "ui")["spec"]["selector"].update({"app.kubernetes.io/name": "iu"})),
    (checks.selectors_match_pods, "about no pod",
     lambda d: get(d, "PodDisruptionBudget", "inference")["spec"]["selector"].update(matchLabels={"a": "b"})),
    (checks.ports_of_services_are_declared, "has no port",
     lambda d: get(d, "Service", "s3")["spec"]["ports"][0].update(targetPort="http")),
    (checks.ports_of_services_are_declared, "asks port",
     lambda d: container(d, "ui")["livenessProbe"]["httpGet"].update(port=8080)),
    (checks.ports_of_services_are_declared, "names Service",
     lambda d: get(d, "StatefulSet", "kafka")["spec"].update(serviceName="broker")),
    (checks.config_maps_exist, "no ConfigMap", lambda d: d.remove(of_kind(d, "ConfigMap")[0])),
    (checks.config_maps_exist, "used by nobody",
     lambda d: d.append({"kind": "ConfigMap", "metadata": {"name": "alone"}, "data": {}})),
    (checks.config_maps_exist, "has no absent",
     lambda d: container(d, "ui")["env"].append(
         {"name": "X", "valueFrom": {"configMapKeyRef": {"name": of_kind(d, "ConfigMap")[0]["metadata"]["name"],
                                                         "key": "absent"}}})),
    (checks.secrets_are_made_and_mounted_one_by_one, "no secret",
     lambda d: secrets_of(d, "trainer")["items"][0].update(key="trainer_password")),
    (checks.secrets_are_made_and_mounted_one_by_one, "Secret other",
     lambda d: secrets_of(d, "trainer").update(secretName="other")),
    (checks.secrets_are_made_and_mounted_one_by_one, "everybody's", lambda d: secrets_of(d, "trainer").pop("items")),
    (checks.secrets_are_made_and_mounted_one_by_one, "in the environment",
     lambda d: container(d, "ui")["env"].append(
         {"name": "X", "valueFrom": {"secretKeyRef": {"name": "readmit-secrets", "key": "jupyter_token"}}})),
    (checks.secrets_are_made_and_mounted_one_by_one, "in the manifests",
     lambda d: d.append({"kind": "Secret", "metadata": {"name": "readmit-secrets"}})),
    (checks.volumes_exist, "no PersistentVolumeClaim", lambda d: d.remove(of_kind(d, "PersistentVolumeClaim")[0])),
    (checks.volumes_exist, "no volume data",
     lambda d: get(d, "StatefulSet", "kafka")["spec"]["volumeClaimTemplates"][0]["metadata"].update(name="log")),
    (checks.volumes_exist, "folder of the node",
     lambda d: pod(d, "ui")["volumes"].append({"name": "etc", "hostPath": {"path": "/etc"}})),
    (checks.settings_are_known_and_complete, "knows no TRAINER_KAFKA__SERVERS",
     lambda d: container(d, "trainer")["env"].append({"name": "TRAINER_KAFKA__SERVERS", "value": "kafka:9092"})),
    (checks.settings_are_known_and_complete, "TRAINER_POSTGRES__PASSWORD is not given",
     lambda d: secrets_of(d, "trainer")["items"].pop(0)),
    (checks.settings_are_known_and_complete, "TRAINER_KAFKA__BOOTSTRAP_SERVERS is not given",
     lambda d: container(d, "trainer")["env"].remove(
         {"name": "TRAINER_KAFKA__BOOTSTRAP_SERVERS", "value": "kafka:9092"})),
    (checks.settings_are_known_and_complete, "nobody runs monitor", lambda d: drop(d, "Deployment", "monitor")),
    (checks.targets_of_scaling_exist, "not there",
     lambda d: get(d, "HorizontalPodAutoscaler", "inference")["spec"]["scaleTargetRef"].update(name="serving")),
    (checks.targets_of_scaling_exist, "undo the scaling",
     lambda d: get(d, "Deployment", "inference")["spec"].update(replicas=2)),
    *[
        (checks.containers_are_restricted, word, fault)
        for word, fault in (
            ("token", lambda d: pod(d, "ui").pop("automountServiceAccountToken")),
            ("variables of every Service", lambda d: pod(d, "ui").pop("enableServiceLinks")),
            ("hostNetwork", lambda d: pod(d, "ui").update(hostNetwork=True)),
            ("runAsNonRoot", lambda d: pod(d, "ui")["securityContext"].pop("runAsNonRoot")),
            ("runAsUser", lambda d: pod(d, "ui")["securityContext"].update(runAsUser=0)),
            ("seccompProfile", lambda d: pod(d, "ui")["securityContext"].pop("seccompProfile")),
            ("allowPrivilegeEscalation",
             lambda d: container(d, "ui")["securityContext"].pop("allowPrivilegeEscalation")),
            ("readOnlyRootFilesystem", lambda d: container(d, "ui")["securityContext"].pop("readOnlyRootFilesystem")),
            ("capabilities.drop", lambda d: container(d, "ui")["securityContext"].pop("capabilities")),
            ("capabilities.add", lambda d: container(d, "ui")["securityContext"]["capabilities"].update(add=["CHOWN"])),
            ("pgadmin: another capability",
             lambda d: container(d, "pgadmin")["securityContext"]["capabilities"]["add"].append("SYS_ADMIN")),
        )
    ],
    (checks.containers_have_requests_and_limits, "no limits of memory",
     lambda d: container(d, "ui")["resources"]["limits"].pop("memory")),
    (checks.services_are_probed_and_may_drain, "/readyz",
     lambda d: container(d, "inference")["readinessProbe"]["httpGet"].update(path="/livez")),
    (checks.services_are_probed_and_may_drain, "livenessProbe", lambda d: container(d, "ui").pop("livenessProbe")),
    (checks.services_are_probed_and_may_drain, "time to drain",
     lambda d: pod(d, "inference").update(terminationGracePeriodSeconds=10)),
    (checks.node_ports_are_the_table, "31091",
     lambda d: get(d, "Service", "prometheus")["spec"]["ports"][0].update(nodePort=31091)),
    (checks.node_ports_are_the_table, "used twice",
     lambda d: get(d, "Service", "ui")["spec"]["ports"][0].update(nodePort=30601)),
    (checks.node_ports_are_the_table, "missing",
     lambda d: get(d, "Service", "ui")["spec"]["ports"][0].pop("nodePort")),
    (checks.images_are_those_of_compose, "latest", lambda d: container(d, "ui").update(image="readmit/ui:latest")),
    (checks.images_of_ours_are_never_fetched, "readmit/ui",
     lambda d: container(d, "ui").update(imagePullPolicy="IfNotPresent")),
    (checks.pods_are_on_their_machine, "not on inference", lambda d: pod(d, "ui").pop("nodeSelector")),
    (checks.pods_are_on_their_machine, "not on data",
     lambda d: pod(d, "kafka", "StatefulSet").update(nodeSelector={"readmit.io/role": "observation"})),
    (network.every_address_is_one_that_policies_let_through, "trainer is not let out",
     lambda d: drop(d, "NetworkPolicy", "to-mlflow")),
    (network.every_address_is_one_that_policies_let_through, "postgres does not let it in",
     lambda d: policy(d, "postgres")["ingress"][0]["ports"][0].update(port=5433)),
    (network.every_address_is_one_that_policies_let_through, "kafka:9093",
     lambda d: container(d, "inference")["env"][1].update(value="kafka:9093")),
    (network.every_address_is_one_that_policies_let_through, "inference → postgres",
     lambda d: container(d, "inference")["env"].append({"name": "X", "value": "postgres"})),
    (network.nothing_is_let_through_that_nobody_asks_for, "inference → postgres:5432",
     lambda d: policy(d, "to-postgres")["podSelector"]["matchExpressions"][0]["values"].append("inference")),
    (network.all_is_denied_first, "no policy", lambda d: drop(d, "NetworkPolicy", "default-deny")),
    (network.all_is_denied_first, "lets something through",
     lambda d: policy(d, "default-deny").update(egress=[{}])),
    (network.policies_are_about_pods_that_exist, "no pod is",
     lambda d: policy(d, "ui")["podSelector"]["matchLabels"].update({"app.kubernetes.io/name": "iu"})),
    (network.policies_are_about_pods_that_exist, "no pod is triner",
     lambda d: policy(d, "kafka")["ingress"][0]["from"][0]["podSelector"]["matchExpressions"][0]["values"].append(
         "triner")),
    (network.policies_are_about_pods_that_exist, "all the world",
     lambda d: policy(d, "postgres")["ingress"].append({"ports": [{"port": 5432}]})),
    (network.policies_are_about_pods_that_exist, "without its policyType",
     lambda d: policy(d, "to-mlflow").update(policyTypes=["Ingress"])),
    (network.names_can_be_looked_up_and_node_ports_reached, "look a name up",
     lambda d: drop(d, "NetworkPolicy", "to-dns")),
    (network.names_can_be_looked_up_and_node_ports_reached, "nobody gets through",
     lambda d: policy(d, "grafana")["ingress"].clear()),
    (network.names_can_be_looked_up_and_node_ports_reached, "has no NodePort",
     lambda d: get(d, "Service", "grafana")["spec"].update(type="ClusterIP")),
]  # fmt: skip
CHECKS = list(dict.fromkeys(check for check, _, _ in FAULTS))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_what_is_rendered_holds_together(check: Check, overlay: Documents) -> None:
    if check is checks.pods_are_on_their_machine and overlay is not rendered(FOLDER / "overlays/three-vms"):
        assert not [workload for workload in workloads(overlay) if "nodeSelector" in workload.pod]
        return
    assert check(overlay) == []


@pytest.mark.parametrize(("check", "word", "fault"), FAULTS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_a_planted_fault_is_found(check: Check, word: str, fault: Fault, three_vms: Documents) -> None:
    assert check(three_vms) == []
    fault(three_vms)
    assert [problem for problem in check(three_vms) if word in problem], check(three_vms)


def test_every_check_has_a_fault_that_it_finds() -> None:
    public = {
        value
        for module in (checks, network)
        for name, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", "") == module.__name__
        and list(getattr(value, "__annotations__", {}).items()) == [("documents", "Documents"), ("return", "list[str]")]
    }  # fmt: skip
    assert public == set(CHECKS)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_document_is_what_this_kubernetes_allows(version: str, overlay: Documents) -> None:
    assert not of_kind(overlay, *KEDA)
    for document in overlay:
        assert kubernetes_validate.validate(document, version, strict=True).startswith(version)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_misspelt_field_and_a_wrong_type_are_not_allowed(version: str, three_vms: Documents) -> None:
    faults: list[Document] = [{"livenesProbe": {}}, {"ports": [{"containerPort": "http"}]}]
    for wrong in faults:
        document = copy.deepcopy(get(three_vms, "Deployment", "ui"))
        document["spec"]["template"]["spec"]["containers"][0].update(wrong)
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(document, version, strict=True)


def test_both_overlays_run_the_whole_platform(overlay: Documents) -> None:
    services = set(named(overlay, "Service"))
    assert {name for name, _ in checks.NODE_PORTS.values()} <= services
    assert {"kafka", "postgres", *(f"{service}-pods" for service in checks.SERVICES)} <= services
    assert {"topics", "database", "bucket", "airflow-migrate"} == set(named(overlay, "Job"))


def test_prometheus_finds_every_pod_of_a_service_by_a_headless_name_ready_or_not(overlay: Documents) -> None:
    for service in checks.SERVICES:
        spec = get(overlay, "Service", f"{service}-pods")["spec"]
        assert spec["clusterIP"] == "None"
        assert spec["publishNotReadyAddresses"] is True


def test_nothing_leads_a_person_to_a_port_of_their_own_machine(overlay: Documents) -> None:
    for workload in workloads(overlay):
        told = [str(variable.get("value")) for one in workload.containers for variable in one.get("env", [])]
        assert not [text for text in told for port in checks.NODE_PORTS if f"localhost:{port}" in text], workload


def test_serving_is_let_out_to_the_bus_and_the_models_alone(overlay: Documents) -> None:
    arrows, _ = network.wanted(overlay)
    assert {arrow.server for arrow in arrows if arrow.client == "inference"} == {"kafka", "s3"}


def scaled_object_problems(document: Document) -> list[str]:
    """What is wrong with a ScaledObject of KEDA 2, for the triggers that we use."""
    fields = {"scaleTargetRef", "minReplicaCount", "maxReplicaCount", "pollingInterval", "advanced", "triggers"}
    must = {
        "kafka": {"bootstrapServers", "topic", "consumerGroup", "lagThreshold"},
        "prometheus": {"serverAddress", "query", "threshold"},
    }
    spec = document["spec"]
    problems = [f"no field {name}" for name in set(spec) - fields]
    if document["apiVersion"] != "keda.sh/v1alpha1":
        problems.append(document["apiVersion"])
    if not 0 < spec["minReplicaCount"] < spec["maxReplicaCount"]:
        problems.append("counts of replicas")
    # KEDA hands this to the autoscaler that it makes; its own cooldownPeriod is about the way to no pod at all.
    if set(spec["advanced"]) != {"horizontalPodAutoscalerConfig"}:
        problems.append(f"advanced: {sorted(spec['advanced'])}")
    autoscaler = {
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "of-keda"},
        "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "trainer"}, "maxReplicas": spec["maxReplicaCount"],
                 **spec["advanced"].get("horizontalPodAutoscalerConfig", {})},
    }  # fmt: skip
    try:
        kubernetes_validate.validate(autoscaler, VERSIONS[0], strict=True)
    except kubernetes_validate.ValidationError as error:
        problems.append(error.message)
    for trigger in spec["triggers"]:
        if set(trigger["metadata"]) != must[trigger["type"]]:
            problems.append(f"{trigger['type']}: {sorted(trigger['metadata'])}")
        problems += [f"{key} is no text" for key, value in trigger["metadata"].items() if not isinstance(value, str)]
    return problems


def test_with_api_keys_inference_reads_the_list_that_it_is_given_and_all_still_holds_together(
    with_api_keys: Documents,
) -> None:
    for check in CHECKS:
        if check is not checks.pods_are_on_their_machine:
            assert check(with_api_keys) == [], check.__name__
    told = {variable["name"]: variable.get("value") for variable in container(with_api_keys, "inference")["env"]}
    assert told["INFERENCE_API_KEYS_FILE"] == "/run/secrets/inference_api_keys.json"
    assert "INFERENCE_CACHE_DIR" in told, "what else it is told stays"
    moved = copy.deepcopy(with_api_keys)
    secrets_of(moved, "inference")["items"].pop(2)
    assert "is mounted nowhere" in " ".join(checks.settings_are_known_and_complete(moved))


def test_the_promoter_alone_is_given_the_list_of_who_may_command_it(three_vms: Documents) -> None:
    key = "promoter_api_keys.json"
    told = {variable["name"]: variable.get("value") for variable in container(three_vms, "promoter")["env"]}
    assert told["PROMOTER_API_KEYS_FILE"] == f"/run/secrets/{key}"
    given = {str(workload) for workload, _, item in references(three_vms, "Secret") if item == key}
    assert len(given) == 1, given
    items = secrets_of(three_vms, "promoter")["items"]
    items.remove({"key": key, "path": key})
    assert "is mounted nowhere" in " ".join(checks.settings_are_known_and_complete(three_vms))


def test_a_policy_of_ones_own_comes_as_the_page_about_three_machines_says(tmp_path: Path) -> None:
    shipped = (resources.files("readmit_promoter") / "policies" / "default.yaml").read_text()
    (tmp_path / "policy.yaml").write_text(shipped)
    said = yaml.safe_load(snippet("docs/deploy/three-vms.md", "promoter-policy"))
    overlay = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "namespace": "mlops-project",
        "resources": [_from(tmp_path, "overlays/three-vms")], **said,
    }  # fmt: skip
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    documents = rendered(tmp_path)
    for check in CHECKS:
        assert check(documents) == [], check.__name__
    told = {variable["name"]: variable.get("value") for variable in container(documents, "promoter")["env"]}
    assert "PROMOTER_MLFLOW_URL" in told, "what else it is told stays"
    (volume,) = [volume for volume in pod(documents, "promoter")["volumes"] if volume["name"] == "policy"]
    (mount,) = [mount for mount in container(documents, "promoter")["volumeMounts"] if mount["name"] == "policy"]
    files = get(documents, "ConfigMap", volume["configMap"]["name"])["data"]
    assert {f"{mount['mountPath']}/{name}": text for name, text in files.items()} == {
        told["PROMOTER_POLICY_FILE"]: shipped
    }
    for version in VERSIONS:
        for document in (*of_kind(documents, "ConfigMap"), get(documents, "Deployment", "promoter")):
            assert kubernetes_validate.validate(document, version, strict=True).startswith(version)


def test_with_keda_all_still_holds_together(with_keda: Documents) -> None:
    for check in CHECKS:
        if check is not checks.pods_are_on_their_machine:
            assert check(with_keda) == [], check.__name__


def test_keda_scales_the_trainer_by_topics_and_groups_that_exist(with_keda: Documents) -> None:
    (scaled,) = of_kind(with_keda, *KEDA)
    assert scaled_object_problems(scaled) == []
    topics = {topic["name"] for topic in yaml.safe_load((ROOT / "infra/kafka/topics.yaml").read_text())["topics"]}
    group = consumer_group(FAMILIES)
    for trigger in scaled["spec"]["triggers"]:
        if trigger["type"] == "kafka":
            assert trigger["metadata"]["topic"] in topics
            assert trigger["metadata"]["consumerGroup"] in {group, f"{group}-requests"}
        address = trigger["metadata"].get("bootstrapServers") or trigger["metadata"]["serverAddress"]
        host, _, port = address.removeprefix("http://").partition(":")
        name, _, namespace = host.partition(".")
        assert namespace.split(".")[0] == "mlops-project", "KEDA asks from its own namespace"
        assert int(port) in {entry["port"] for entry in get(with_keda, "Service", name)["spec"]["ports"]}
    faults: tuple[Document, ...] = (
        {"minReplicas": 1},
        {"maxReplicaCount": 1},
        {"triggers": [{"type": "kafka", "metadata": {}}]},
        {"advanced": {"horizontalPodAutoscalerConfig": {"behaviour": {}}}},
        {"advanced": {"behavior": {}}},
    )
    for wrong in faults:
        assert scaled_object_problems({**scaled, "spec": {**scaled["spec"], **wrong}}) != []


def test_the_page_about_three_machines_names_every_port_role_and_option() -> None:
    page = (ROOT / "docs/deploy/three-vms.md").read_text()
    assert not [port for port in checks.NODE_PORTS if str(port) not in page]
    assert not [role for role in checks.ROLES if f"--{role}" not in page]
    assert not [version for version in VERSIONS if version not in page]

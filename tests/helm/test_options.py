"""What single values change in the rendered objects."""

import base64

import pytest

from tests.helm.chart import CHART, Helm, Rendered, setting
from tests.helm.conftest import CASES

TINY = CASES["tiny"]


def _kinds(rendered: Rendered) -> set[str]:
    return {document["kind"] for document in rendered.documents}


def test_the_default_has_attention_on_the_head_node_and_experts_on_a_worker_group(helm: Helm):
    cluster = helm.template().ray_cluster()
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert "attention" in cluster["headGroupSpec"]["rayStartParams"]["resources"]
    (experts,) = cluster["workerGroupSpecs"]
    assert experts["groupName"] == "experts"
    assert "expert" in experts["rayStartParams"]["resources"]
    limits = experts["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == 8


def test_one_gpu_is_a_head_node_alone(helm: Helm):
    cluster = helm.template(CASES["1gpu"]).ray_cluster()
    assert cluster["workerGroupSpecs"] == []
    limits = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == 1


def test_the_tiny_model_needs_no_gpu_and_no_volume(helm: Helm):
    rendered = helm.template(TINY)
    assert not {"PersistentVolumeClaim", "Job"} & _kinds(rendered)
    for group in rendered.ray_groups():
        container = group["template"]["spec"]["containers"][0]
        assert "nvidia.com/gpu" not in container["resources"]["limits"]
        assert container["image"].endswith("-cpu")


def test_a_key_is_drawn_for_each_installation_and_is_one_line(helm: Helm):
    keys = {helm.template(TINY).only("Secret")["data"]["keys"] for _ in range(2)}
    assert len(keys) == 2
    for key in keys:
        text = base64.b64decode(key).decode()
        assert len(text) >= 43
        assert text.strip() == text


def test_a_secret_of_the_users_replaces_the_drawn_key(helm: Helm):
    rendered = helm.template(TINY, [setting("apiKeys.existingSecret", "mine")])
    assert "Secret" not in _kinds(rendered)
    (volume,) = [
        volume
        for volume in rendered.ray_cluster()["headGroupSpec"]["template"]["spec"]["volumes"]
        if volume["name"] == "api-keys"
    ]
    assert volume["secret"]["secretName"] == "mine"


def test_api_keys_lie_on_the_head_node_only(helm: Helm):
    head, *workers = helm.template(TINY).ray_groups()
    assert "api-keys" in str(head)
    assert all("api-keys" not in str(group["template"]["spec"]["volumes"]) for group in workers)


def test_rays_token_is_on_and_may_be_the_users(helm: Helm):
    assert helm.template(TINY).ray_cluster()["authOptions"] == {"mode": "token"}
    named = helm.template(TINY, [setting("rayAuth.existingSecret", "mine")]).ray_cluster()
    assert named["authOptions"] == {"mode": "token", "secretName": "mine"}


def test_ray_runs_at_normal_priority_and_waits_for_a_lost_control_server(helm: Helm):
    for group in helm.template(CASES["everything"]).ray_groups():
        environment = group["template"]["spec"]["containers"][0]["env"]
        values = {variable["name"]: variable.get("value") for variable in environment}
        assert values["RAY_worker_niceness"] == "0"
        assert values["RAY_gcs_rpc_server_reconnect_timeout_s"] == "1200000"
        assert len(values) == len(environment)


def test_redis_keeps_the_control_state_when_asked(helm: Helm):
    assert "gcsFaultToleranceOptions" not in helm.template(TINY).ray_cluster()
    options = helm.template(CASES["everything"]).ray_cluster()["gcsFaultToleranceOptions"]
    assert options["redisAddress"] == "redis.data:6380"
    assert options["redisPassword"]["valueFrom"]["secretKeyRef"] == {"name": "redis", "key": "password"}


def test_the_network_policy_opens_what_is_needed_and_no_more(helm: Helm):
    """Strangers reach HTTP and gRPC; the nodes reach each other; nothing but names leaves the release."""
    (policy,) = helm.template(TINY).of_kind("NetworkPolicy")
    open_to_all = [rule for rule in policy["spec"]["ingress"] if not rule.get("from")]
    assert [port["port"] for rule in open_to_all for port in rule["ports"]] == [8000, 9000]
    egress = [port["port"] for rule in policy["spec"]["egress"] if "to" not in rule for port in rule["ports"]]
    assert egress == [53, 53]


def test_the_network_policy_knows_clients_redis_and_the_api_server(helm: Helm):
    policy = helm.template(CASES["everything"]).of_kind("NetworkPolicy")[0]["spec"]
    assert all(rule.get("from") for rule in policy["ingress"])
    egress = {port["port"] for rule in policy["egress"] for port in rule.get("ports", [])}
    assert egress == {53, 443, 6443, 6380}


def test_a_changed_image_makes_a_new_fetch_job(helm: Helm):
    names = {
        helm.template(settings=[setting("image.tag", tag)]).only("Job")["metadata"]["name"] for tag in ("1", "1", "2")
    }
    assert len(names) == 2


def test_pods_wait_for_a_whole_checkpoint_and_the_fetch_may_write_it(helm: Helm):
    rendered = helm.template()
    for group in rendered.ray_groups():
        spec = group["template"]["spec"]
        assert spec["initContainers"][-1]["name"] == "wait-for-model"
        assert _model_mount(spec["containers"][0]) == {"name": "model", "mountPath": "/models", "readOnly": True}
    (fetch,) = rendered.only("Job")["spec"]["template"]["spec"]["containers"]
    assert fetch["command"] == ["expertmesh", "fetch", "openai/gpt-oss-120b"]
    assert _model_mount(fetch) == {"name": "model", "mountPath": "/models"}


def test_budgets_let_one_node_of_a_group_go_and_never_the_last(helm: Helm):
    rendered = helm.template(CASES["everything"])
    budgets = {budget["metadata"]["name"]: budget["spec"] for budget in rendered.of_kind("PodDisruptionBudget")}
    assert budgets["gpt-oss-head"]["minAvailable"] == 1
    assert budgets["gpt-oss-experts"]["minAvailable"] == 2
    assert "gpt-oss-attention" not in budgets


def test_the_image_is_named_by_digest_tag_or_version_and_variant(helm: Helm):
    def image(*settings: str) -> str:
        return helm.template(settings=settings).ray_groups()[0]["template"]["spec"]["containers"][0]["image"]

    assert image() == "expertmesh:0.1.0-cuda"
    assert image(setting("image.tag", "edge")) == "expertmesh:edge"
    digest = "sha256:" + "0" * 64
    assert image(setting("image.tag", "edge"), setting("image.digest", digest)) == f"expertmesh@{digest}"


@pytest.mark.parametrize("case", CASES)
def test_notes_say_how_to_ask_the_first_question(helm: Helm, case: str):
    notes = helm.notes(CASES[case])
    service = helm.template(CASES[case]).only("RayService")["spec"]["serveService"]
    assert f"port-forward service/{service['metadata']['name']} {service['spec']['ports'][0]['port']}" in notes
    assert "expertmesh chat --url" in notes
    assert ("WARNING: networkPolicy is off" in notes) == (case == "plain")
    assert "{{" not in notes


def test_files_beside_the_chart_are_not_packaged(helm: Helm, tmp_path):
    output = helm.run("package", str(CHART), "--destination", str(tmp_path))
    assert "Successfully packaged" in output
    import tarfile

    with tarfile.open(next(tmp_path.glob("*.tgz"))) as package:
        names = package.getnames()
    assert "expertmesh/values.schema.json" in names
    assert not [name for name in names if "Dockerfile" in name]


def _model_mount(container: dict) -> dict:
    (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == "model"]
    return mount

"""podTemplates that the API server accepts, and others that it refuses with a message."""

from typing import Any

Template = dict[str, Any]

INIT: Template = {"name": "fetch", "image": "tools:1"}
PODS: Template = {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "a"}}}
SPREAD: Template = PODS | {"maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"}
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def node(**expression: Any) -> Template:
    """A node affinity with one condition."""
    terms = [{"matchExpressions": [{"key": "pool", **expression}]}]
    return {"affinity": {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": terms}}}}


def near(**fields: Any) -> Template:
    """A pod affinity with one term."""
    return {"affinity": {"podAffinity": {REQUIRED: [PODS | fields]}}}


def spread(*constraints: Template) -> Template:
    return {"topologySpreadConstraints": list(constraints)}


def init(**fields: Any) -> Template:
    return {"initContainers": [INIT | fields]}


def devices(**amounts: str) -> Template:
    return {"extendedResources": {name.replace("__", "/"): n for name, n in amounts.items()}}


OF_RUNS = " are how pods of runs are known: take another key"
BOTH = "a label of matchLabelKeys has the pod's own value: take it out of labelSelector"
NO_VALUES = "operators Exists and DoesNotExist go without values, the others need some"
RESTRICTED = "annotations that change how a container is confined are refused"
REFUSED_TEMPLATES: list[tuple[Template, str]] = [
    *(
        ({field: {key: "x"}}, f"{field} of kubetune.io, batch.kubernetes.io")
        for field in ("labels", "annotations")
        for key in (
            "kubetune.io/run-key",
            "kubetune.io/mark",
            "sub.kubetune.io/a",
            "batch.kubernetes.io/job-completion-index",
            "job-name",
            "controller-uid",
            "app.kubernetes.io/managed-by",
        )
    ),
    ({"labels": {"job-name": "x"}}, OF_RUNS),
    *(
        ({"annotations": {f"{key}/runner": "unconfined"}}, RESTRICTED)
        for key in (
            "container.apparmor.security.beta.kubernetes.io",
            "container.seccomp.security.alpha.kubernetes.io",
            "seccomp.security.alpha.kubernetes.io",
        )
    ),
    ({"labels": {"a b": "x"}}, "a label key is a name"),
    ({"labels": {"a": "x y"}}, "should match"),
    ({"annotations": {"a": "x" * 4097}}, "may not be more than 4096"),
    (node(operator="In"), NO_VALUES),
    (node(operator="Exists", values=["a"]), NO_VALUES),
    (node(operator="In", values=[]), "should have at least 1 items"),
    (node(operator="Gt", values=["a"]), "operators Gt and Lt compare with one whole number"),
    (node(operator="Lt", values=["1", "2"]), "operators Gt and Lt compare with one whole number"),
    (node(operator="Is", values=["1"]), "supported values"),
    (near(matchLabelKeys=["app"]), BOTH),
    (
        near(
            matchLabelKeys=["app"],
            labelSelector={"matchExpressions": [{"key": "app", "operator": "Exists"}]},
        ),
        BOTH,
    ),
    (near(topologyKey=""), "should be at least 1 chars long"),
    (
        {"affinity": {"podAntiAffinity": {REQUIRED: [{"topologyKey": "zone"}]}}},
        "labelSelector: Required value",
    ),
    (
        {"affinity": {"podAntiAffinity": {PREFERRED: [{"weight": 101, "podAffinityTerm": PODS}]}}},
        "should be less than or equal to 100",
    ),
    (spread(SPREAD | {"matchLabelKeys": ["app"]}), BOTH),
    (spread(SPREAD, SPREAD | {"maxSkew": 2}), "two constraints have the same topologyKey and"),
    (
        spread(SPREAD | {"whenUnsatisfiable": "ScheduleAnyway", "minDomains": 2}),
        "minDomains is for whenUnsatisfiable DoNotSchedule alone",
    ),
    (spread(SPREAD | {"maxSkew": 0}), "should be greater than or equal to 1"),
    ({"schedulerName": "No Name"}, "should match"),
    *(
        (devices(**{name: "1"}), "an extended resource is a lower-case domain, / and a name")
        for name in ("cpu", "memory", "hugepages-2Mi", "Rdma/hca", "a..b/c", "/a")
    ),
    *(
        (devices(**{name: "1"}), "own, no extended resources")
        for name in ("kubernetes.io/x", "node.kubernetes.io/x", "requests.rdma/hca")
    ),
    (devices(nvidia__com="1") | devices(**{"nvidia.com/gpu": "1"}), "ask by resources.gpu"),
    *((devices(rdma__hca=amount), "should match") for amount in ("1.5", "500m", "0", "-1", "x")),
    (init(name="runner"), "runner is the container of the run itself: take another name"),
    (init(name="A"), "should match"),
    (init(image=""), "should be at least 1 chars long"),
    (init(resources={"memory": "lots"}), "should match"),
    (init(env=[{"name": "A", "value": "1", "valueFrom": {}}]), "at most one of value, valueFrom"),
    ({"initContainers": [INIT, INIT]}, "Duplicate value"),
]

ACCEPTED_TEMPLATES: list[Template] = [
    {},
    {"labels": {"kueue.x-k8s.io/queue-name": "gpu", "team": "a"}},
    {"annotations": {"k8s.v1.cni.cncf.io/networks": '[{"name": "rdma"}]', "a": ""}},
    {"annotations": {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}},
    node(operator="Gt", values=["5"]),
    node(operator="Exists"),
    near(matchLabelKeys=["kubetune.io/run-key"], namespaceSelector={}),
    spread(SPREAD, SPREAD | {"whenUnsatisfiable": "ScheduleAnyway"}),
    {"schedulerName": "volcano"},
    devices(rdma__hca="1", **{"nvidia.com/mig-1g.10gb": "1", "vpc.amazonaws.com/efa": "4"}),
    init(),
    init(command=["sh", "-c"], args=["true"], env=[{"name": "A"}], resources={"cpu": "1"}),
]

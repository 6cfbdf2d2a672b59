"""Schemas of the custom resources in serving/deploy/kubernetes, as far as those files use them.

Kubernetes' own schemas do not have these kinds. They were compared with the types of KEDA 2.18
(`keda.sh/v1alpha1`), the Prometheus operator 0.86 (`monitoring.coreos.com/v1`), Gateway API 1.4 and KServe
0.16, and allow less than those. Unknown fields fail.
"""

from __future__ import annotations

from typing import Any, TypeAlias

Schema: TypeAlias = dict[str, Any]

TEXT: Schema = {"type": "string", "minLength": 1}
COUNT: Schema = {"type": "integer", "minimum": 0}
TEXTS: Schema = {"type": "object", "additionalProperties": TEXT}
ANY: Schema = {}  # core types, which are compared with those of the Deployment


def fields(*required: str, **properties: Schema) -> Schema:
    """An object with these fields and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def each(schema: Schema) -> Schema:
    return {"type": "array", "items": schema, "minItems": 1}


def resource(spec: Schema) -> Schema:
    metadata = fields("name", name=TEXT, labels=TEXTS, annotations=TEXTS)
    return fields(
        "apiVersion", "kind", "metadata", "spec", apiVersion=TEXT, kind=TEXT, metadata=metadata, spec=spec
    )


_POLICY = fields(
    "type",
    "value",
    "periodSeconds",
    type={"enum": ["Pods", "Percent"]},
    value={"type": "integer", "minimum": 1},
    periodSeconds={"type": "integer", "minimum": 1, "maximum": 1800},
)
_RULES = fields(
    stabilizationWindowSeconds={"type": "integer", "minimum": 0, "maximum": 3600}, policies=each(_POLICY)
)
_TRIGGER = fields(
    "type",
    "metadata",
    name=TEXT,
    type={"const": "prometheus"},
    metricType={"enum": ["AverageValue", "Value", "Utilization"]},
    # KEDA's parameters of a trigger are texts.
    metadata=fields(
        "serverAddress",
        "query",
        "threshold",
        serverAddress=TEXT,
        query=TEXT,
        threshold={"type": "string", "pattern": r"^\d+(\.\d+)?$"},
        ignoreNullValues={"enum": ["true", "false"]},
    ),
)
SCALED_OBJECT = resource(
    fields(
        "scaleTargetRef",
        "triggers",
        scaleTargetRef=fields("name", apiVersion=TEXT, kind=TEXT, name=TEXT),
        minReplicaCount=COUNT,
        maxReplicaCount=COUNT,
        pollingInterval=COUNT,
        advanced=fields(
            horizontalPodAutoscalerConfig=fields(behavior=fields(scaleUp=_RULES, scaleDown=_RULES))
        ),
        triggers=each(_TRIGGER),
    )
)

SERVICE_MONITOR = resource(
    fields(
        "selector",
        "endpoints",
        jobLabel=TEXT,
        selector=fields("matchLabels", matchLabels=TEXTS),
        endpoints=each(
            fields(
                port=TEXT,
                path=TEXT,
                interval={"type": "string", "pattern": r"^\d+(ms|s|m)$"},
                scrapeTimeout={"type": "string", "pattern": r"^\d+(ms|s|m)$"},
            )
        ),
    )
)

GRPC_ROUTE = resource(
    fields(
        "rules",
        parentRefs=each(fields("name", name=TEXT, namespace=TEXT)),
        hostnames=each(TEXT),
        rules=each(
            fields(
                matches=each(fields(method=fields(service=TEXT, method=TEXT))),
                backendRefs=each(fields("name", "port", name=TEXT, port=COUNT)),
            )
        ),
    )
)

SERVING_RUNTIME = resource(
    fields(
        "containers",
        supportedModelFormats=each(
            fields("name", name=TEXT, version=TEXT, autoSelect={"type": "boolean"}, priority=COUNT)
        ),
        protocolVersions=each({"enum": ["v1", "v2", "grpc-v1", "grpc-v2"]}),
        containers=each(ANY),
        volumes=each(ANY),
    )
)

INFERENCE_SERVICE = resource(
    fields(
        "predictor",
        predictor=fields(
            "model",
            minReplicas=COUNT,
            maxReplicas=COUNT,
            terminationGracePeriodSeconds=COUNT,
            automountServiceAccountToken={"type": "boolean"},
            model=fields(
                "modelFormat",
                runtime=TEXT,
                modelFormat=fields("name", name=TEXT, version=TEXT),
                protocolVersion={"enum": ["v1", "v2", "grpc-v1", "grpc-v2"]},
                storageUri={"type": "string", "pattern": r"^(oci|pvc|s3|gs|hf|https)://"},
            ),
        ),
    )
)

SCHEMAS: dict[tuple[str, str], Schema] = {
    ("keda.sh/v1alpha1", "ScaledObject"): SCALED_OBJECT,
    ("monitoring.coreos.com/v1", "ServiceMonitor"): SERVICE_MONITOR,
    ("gateway.networking.k8s.io/v1", "GRPCRoute"): GRPC_ROUTE,
    ("serving.kserve.io/v1alpha1", "ClusterServingRuntime"): SERVING_RUNTIME,
    ("serving.kserve.io/v1beta1", "InferenceService"): INFERENCE_SERVICE,
}

"""Every rpc that our protos define is served: the generated base classes would refuse it."""

import inspect
from typing import Any

import pytest
from google.protobuf.descriptor import ServiceDescriptor

from cluster.experts.server import ExpertServer
from cluster.token_stream import TokenStreamServer
from protos import engine_pb2, expert_pb2, inference_pb2
from router.api import grpc_server

SERVICES: list[ServiceDescriptor] = [
    service
    for module in (engine_pb2, expert_pb2, inference_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
]


def methods_of(service: ServiceDescriptor) -> set[str]:
    return {method.name for method in service.methods}


def overridden(served: type[Any]) -> set[str]:
    """Return the methods that a class has of its own, not from generated code."""
    members = inspect.getmembers(served, inspect.isfunction)
    return {name for name, function in members if not function.__module__.endswith("_pb2_grpc")}


def served_methods(service: ServiceDescriptor) -> set[str]:
    """Return the names of the methods that our server of `service` answers."""
    if service.full_name == "expertmesh.expert.v1.ExpertService":
        unbuilt = object.__new__(ExpertServer)  # it names its methods without generated code
        return set(unbuilt._handlers())  # pyright: ignore[reportPrivateUsage]
    return overridden(
        {
            "expertmesh.engine.v1.TokenStream": TokenStreamServer,
            "expertmesh.inference.v1.Inference": grpc_server._Inference,  # pyright: ignore[reportPrivateUsage]
        }[service.full_name]
    )


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.full_name)
def test_every_method_is_served(service: ServiceDescriptor) -> None:
    assert methods_of(service) <= served_methods(service)


def test_a_method_that_is_left_to_generated_code_is_found() -> None:
    class Half(grpc_server.rpc.InferenceServicer):
        """Serves nothing."""

    assert overridden(Half).isdisjoint(methods_of(inference_pb2.DESCRIPTOR.services_by_name["Inference"]))

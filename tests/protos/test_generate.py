"""The generator tells stale, missing and left-over files apart; tests/house holds the committed ones to it."""

from protos import expert_pb2
from protos.generate import committed, differences, generate


def test_each_way_to_differ_is_named() -> None:
    wanted = {"a_pb2.py": "new", "b_pb2.py": "same", "c_pb2.py": "only wanted"}
    found = {"a_pb2.py": "old", "b_pb2.py": "same", "d_pb2.py": "only found"}
    assert differences(wanted, found) == [
        "a_pb2.py is stale",
        "c_pb2.py is missing",
        "d_pb2.py belongs to no .proto file",
    ]


def test_three_files_are_generated_for_each_proto() -> None:
    names = generate().keys()
    assert {"expert_pb2.py", "expert_pb2.pyi", "expert_pb2_grpc.py"} <= names
    assert names == committed().keys()


def test_generated_messages_import_from_the_package() -> None:
    request = expert_pb2.PutRequest(epoch=3, experts=[expert_pb2.ExpertId(layer=1, expert=2)])
    assert expert_pb2.PutRequest.FromString(request.SerializeToString()) == request

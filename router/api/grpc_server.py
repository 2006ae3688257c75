"""The public gRPC server: `expertmesh.inference.v1`, standard health, reflection; API keys in the metadata.

It runs as grpc.aio on the event loop of the HTTP application, not in a thread of its own: sequences, admission and
metrics live on that loop, and a hop between loops would cost every token. What could hold the loop up, long texts to be
tokenised, is done in threads by the service.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias, TypeVar

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from model.errors import TokenizerError
from protos import inference_pb2 as pb
from protos import inference_pb2_grpc as rpc
from router.api.chat_reply import MessagePieces
from router.api.chat_request import to_chat_request
from router.api.completions import text_request
from router.api.endpoint_names import endpoint_of_method
from router.api.grpc_convert import (
    chat_body,
    chat_messages,
    generate_body,
    started_message,
    text_messages,
    usage_message,
)
from router.api.grpc_health import Health
from router.auth import KeyRing, load_keys, note_client
from router.config import Config
from router.errors import PlatformRefused, RequestError, Unauthenticated, answer_to
from router.request_meter import RequestMeter, current_meter, measured
from router.service import InferenceService

SERVICE = pb.DESCRIPTOR.services_by_name["Inference"].full_name
_HEALTH = "grpc.health.v1.Health"
_HEALTH_METHODS = f"/{_HEALTH}/"
_KNOWN_SERVICES = ("", SERVICE)
_CODE, _PARAM, _RETRY_AFTER = "expertmesh-error-code", "expertmesh-error-param", "retry-after"
_log = logging.getLogger(__name__)
_Context = grpc.aio.ServicerContext[Any, Any]
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
M = TypeVar("M", pb.GenerateResponse, pb.ChatResponse)


@dataclass(frozen=True, slots=True)
class GrpcServer:
    """A server that runs."""

    server: grpc.aio.Server
    health: Health
    port: int

    async def stop(self, grace_s: float) -> None:
        """Say that it is leaving, take no new calls, and return when all have ended: those of before have `grace_s`."""
        self.health.leave()
        await self.server.stop(grace_s)


async def start_grpc_server(
    service: InferenceService, config: Config, keys: KeyRing | None = None, shares_port: bool = False
) -> GrpcServer:
    """Start to serve on the running loop; raises PlatformRefused for a port that is taken.

    `shares_port` lets several replicas of a node listen on one port, and the kernel spread connections over them.
    """
    section = config.edge.grpc
    server = grpc.aio.server(
        interceptors=(_KeyCheck(load_keys(config.edge.auth) if keys is None else keys, service.new_meter),),
        options=(
            ("grpc.so_reuseport", int(shares_port)),
            ("grpc.max_receive_message_length", section.max_message_bytes),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ),
    )
    rpc.add_InferenceServicer_to_server(_Inference(service, section.stalled_client_s), server)
    health = Health(service, _KNOWN_SERVICES)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    reflection.enable_server_reflection((SERVICE, _HEALTH, reflection.SERVICE_NAME), server)
    host = f"[{section.host}]" if ":" in section.host else section.host
    try:
        port = server.add_insecure_port(f"{host}:{section.port}")
    except RuntimeError as error:
        message = (
            f"gRPC cannot listen on {host}:{section.port}: the port is taken, or the address is not this machine's."
        )
        raise PlatformRefused(f"{message} Choose another with --set edge.grpc.port=PORT.") from error
    await server.start()
    return GrpcServer(server, health, port)


class _Inference(rpc.InferenceServicer):
    """The service's calls, each a few lines over InferenceService."""

    def __init__(self, service: InferenceService, stalled_s: float) -> None:
        self._service = service
        self._stalled_s = stalled_s

    async def Generate(self, request: pb.GenerateRequest, context: _Context) -> AsyncIterator[pb.GenerateResponse]:  # noqa: N802
        """Stream the continuation of a prompt."""
        with measured(self._service.new_meter("completion")):
            async with aclosing(_read(_told(self._generate(request, context), context), self._stalled_s)) as messages:
                async for message in messages:
                    yield message

    async def Chat(self, request: pb.ChatRequest, context: _Context) -> AsyncIterator[pb.ChatResponse]:  # noqa: N802
        """Stream the answer to a conversation."""
        with measured(self._service.new_meter("chat")):
            async with aclosing(_read(_told(self._chat(request, context), context), self._stalled_s)) as messages:
                async for message in messages:
                    yield message

    async def ListModels(self, request: pb.ListModelsRequest, context: _Context) -> pb.ListModelsResponse:  # noqa: N802
        """Tell of the one model."""
        with measured(self._service.new_meter("models")):
            readiness = await self._service.readiness()
            served = self._service.model
            model = pb.Model(
                id=served.name,
                max_context_tokens=await self._service.max_context_tokens() or 0,
                system_fingerprint=readiness.fingerprint or "",
            )
            return pb.ListModelsResponse(models=[model])

    async def Tokenize(self, request: pb.TokenizeRequest, context: _Context) -> pb.TokenizeResponse:  # noqa: N802
        """Turn text into token ids."""
        with measured(self._service.new_meter("tokenize")):
            try:
                return pb.TokenizeResponse(token_ids=await self._service.encode(request.text))
            except TokenizerError as error:
                await _abort(answer_to(error), context)

    async def Detokenize(self, request: pb.DetokenizeRequest, context: _Context) -> pb.DetokenizeResponse:  # noqa: N802
        """Turn token ids into text."""
        with measured(self._service.new_meter("detokenize")):
            try:
                return pb.DetokenizeResponse(text=self._service.tokenizer.decode(request.token_ids))
            except TokenizerError as error:
                await _abort(answer_to(error), context)

    async def _generate(
        self, request: pb.GenerateRequest, context: _Context
    ) -> AsyncGenerator[pb.GenerateResponse, None]:
        asked = await text_request(self._service, generate_body(request), context.time_remaining())
        async with await self._service.complete(asked) as generation:
            yield pb.GenerateResponse(started=started_message(generation.started))
            async for update in generation:
                for message in text_messages(update):
                    yield message
            yield pb.GenerateResponse(usage=usage_message(generation.usage))

    async def _chat(self, request: pb.ChatRequest, context: _Context) -> AsyncGenerator[pb.ChatResponse, None]:
        asked = to_chat_request(chat_body(request), self._service.limits, context.time_remaining())
        async with await self._service.chat(asked) as generation:
            started = generation.started
            yield pb.ChatResponse(started=started_message(started))
            num_choices = asked.options.num_choices
            pieces = [MessagePieces(started.request_id, choice, shows_reasoning=True) for choice in range(num_choices)]
            async for update in generation:
                for message in chat_messages(update, pieces[update.choice]):
                    yield message
            yield pb.ChatResponse(usage=usage_message(generation.usage))


async def _read(messages: AsyncGenerator[M, None], stalled_s: float) -> AsyncGenerator[M, None]:
    """Yield messages; end the call once its client has not read one for so long: it would hold a place for ever."""
    call = asyncio.current_task()
    assert call is not None, "a call runs as a task"
    loop = asyncio.get_running_loop()
    async with aclosing(messages):
        async for message in messages:
            giving_up = loop.call_later(stalled_s, call.cancel)
            try:
                yield message
            finally:
                giving_up.cancel()


class _KeyCheck(grpc.aio.ServerInterceptor):
    """Asks every call for a key, but those of health probes."""

    def __init__(self, keys: KeyRing, new_meter: Callable[[str], RequestMeter]) -> None:
        self._keys = keys
        self._new_meter = new_meter

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler:
        """Let a call through, or answer it."""
        if handler_call_details.method.startswith(_HEALTH_METHODS):
            return await continuation(handler_call_details)
        given = dict(handler_call_details.invocation_metadata or ()).get("authorization")
        try:
            note_client(self._keys.check(given.decode("latin-1") if isinstance(given, bytes) else given))
        except Unauthenticated as error:
            self._new_meter(endpoint_of_method(handler_call_details.method)).close_answered(error.status)
            return grpc.stream_stream_rpc_method_handler(_refusal(error))
        return await continuation(handler_call_details)


def _refusal(error: RequestError) -> Callable[[Any, _Context], AsyncIterator[bytes]]:
    """Return a handler that refuses a call of any arity."""

    async def refuse(_requests: Any, context: _Context) -> AsyncIterator[bytes]:
        await _abort(error, context)
        yield b""

    return refuse


async def _told(messages: AsyncGenerator[M, None], context: _Context) -> AsyncGenerator[M, None]:
    """Yield `messages`; an error among them ends the call with its status."""
    async with aclosing(messages):
        try:
            async for message in messages:
                yield message
        except Exception as error:  # noqa: BLE001 - the boundary where errors become statuses
            answer = answer_to(error)
            if answer.status == 500:
                _log.error("a call failed", exc_info=error)
            await _abort(answer, context)


async def _abort(error: RequestError, context: _Context) -> NoReturn:
    """End a call with an error's status, and count it as ended so."""
    meter = current_meter()
    if meter is not None:
        meter.close_answered(error.status)
    metadata = [(name, value) for name, value in ((_CODE, error.code), (_PARAM, error.param)) if value]
    if error.retry_after_s is not None:
        metadata.append((_RETRY_AFTER, str(error.retry_after_s)))
    await context.abort(grpc.StatusCode[error.grpc_status], error.message, tuple(metadata))

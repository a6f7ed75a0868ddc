"""A training process as the sidecar sees one, for tests and benchmarks that need no training."""

from __future__ import annotations

import grpc

from feedwater.v1 import feedwater_pb2 as pb
from feedwater.v1 import feedwater_pb2_grpc as pb_grpc

MIB = 2**20
POD = ("resnet", "vision", "resnet-0")
"""Its job, namespace and name."""


class Rank:
    """A training process as the sidecar sees one: two workers, 60 batches an epoch or as many as are said."""

    def __init__(
        self,
        address: str,
        *,
        rank: int = 0,
        world: int = 1,
        batches: int = 60,
        pod: tuple[str, str, str] = POD,
    ) -> None:
        self._batches = batches
        self._channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        self._stub = pb_grpc.FeedwaterServiceStub(self._channel)
        self._identity = pb.Identity(
            client_id=f"client-{rank}",
            job=pod[0],
            namespace=pod[1],
            pod=pod[2],
            rank=rank,
            world_size=world,
            trainer_pid=4711 + rank,
        )
        self._ids: dict[str, str] = {}
        self._sequence: dict[str, int] = {}

    def register(
        self, loader: str = "train", *, mode: pb.Mode.ValueType = pb.MODE_AUTO, cuda: bool = False
    ) -> None:
        """Make a loader known, under a limit of four cores."""
        answer = self._stub.RegisterLoader(
            pb.RegisterLoaderRequest(
                identity=self._identity,
                loader=loader,
                settings=pb.LoaderSettings(num_workers=2, prefetch_factor=2),
                mode=mode,
                dataset_kind=pb.DATASET_KIND_MAP,
                batches_per_epoch=self._batches,
                can_apply=True,
                limits=pb.Limits(cpu_quota_cores=4, cpus=8, memory_bytes=8 << 30, shm_bytes=1 << 30),
                uses_cuda=cuda,
            ),
            timeout=10,
            wait_for_ready=True,
        )
        self._ids[loader] = answer.loader_id
        self._sequence[loader] = answer.accepted_sequence

    def epoch(self, loader: str = "train", number: int = 0, *, workers: int = 2, wait: float = 0.02) -> None:
        """Report a whole epoch: loads blocked for 55 of 60 ms, steps of 10 ms."""
        batches = self._batches
        began = 100 + number * (10 + batches * (wait + 0.01))
        settings = pb.LoaderSettings(num_workers=workers, prefetch_factor=2)
        message = self._message(loader, began)
        message.begins.add(epoch=number, stamp_seconds=began, settings=settings, iter_seconds=0.05)
        self._stub.Report(message, timeout=10)
        message = self._message(loader, began + 2)
        message.batches.add(
            epoch=number,
            start_seconds=began + 0.05,
            wait_seconds=[wait] * batches,
            step_seconds=[0.01] * batches,
        )
        for worker in range(workers):
            self._loads(message, number, worker, workers, began)
        end = began + 0.05 + batches * (wait + 0.01)
        message.ends.add(epoch=number, stamp_seconds=end, batches=batches, complete=True)
        self._stub.Report(message, timeout=10)

    def _message(self, loader: str, stamp: float) -> pb.ReportRequest:
        """Return the next report: its container uses 2.5 cores and is throttled in a quarter of periods."""
        self._sequence[loader] += 1
        return pb.ReportRequest(
            loader_id=self._ids[loader],
            sequence=self._sequence[loader],
            container=pb.ContainerUsage(
                stamp_seconds=stamp,
                cpu_seconds=2.5 * stamp,
                periods=int(10 * stamp),
                throttled_periods=int(2.5 * stamp),
                memory_bytes=3 << 30,
                shm_bytes=200 * MIB,
            ),
        )

    def _loads(self, message: pb.ReportRequest, epoch: int, worker: int, workers: int, began: float) -> None:
        count = self._batches // workers
        message.loads.add(
            epoch=epoch,
            worker=worker,
            pid=500 + worker,
            start_seconds=[began + i * 0.06 for i in range(count)],
            load_seconds=[0.06] * count,
            cpu_seconds=[0.005] * count,
            run_delay_seconds=[0.0] * count,
            batch_bytes=[100_000] * count,
            batch_tensors=[2] * count,
        )
        message.processes.add(
            pid=500 + worker,
            worker=worker,
            stamp_seconds=began + 1,
            rss_bytes=400 * MIB,
            pss_bytes=180 * MIB,
            uss_bytes=(120 + worker) * MIB,
        )

    def ask(self, loader: str = "train", epoch: int = 0) -> pb.GetRecommendationResponse:
        """Ask at the epoch's end."""
        question = pb.GetRecommendationRequest(
            loader_id=self._ids[loader], epoch=epoch, end_sequence=self._sequence[loader]
        )
        answer: pb.GetRecommendationResponse = self._stub.GetRecommendation(question, timeout=30)
        return answer

    def decide(self, loader: str = "train", epoch: int = 0, *, detail: str = "") -> int:
        """Ask at the epoch's end, say what became of the answer, and return the workers recommended."""
        answer = self.ask(loader, epoch).recommendation
        assert answer.id, "nothing recommended"
        self._stub.ReportApplied(
            pb.ReportAppliedRequest(
                loader_id=self._ids[loader],
                recommendation_id=answer.id,
                outcome=pb.OUTCOME_REFUSED if detail else pb.OUTCOME_APPLIED,
                settings=pb.LoaderSettings(num_workers=2) if detail else answer.settings,
                detail=detail,
            ),
            timeout=10,
        )
        return answer.settings.num_workers

    def close(self) -> None:
        """End the connection."""
        self._channel.close()

"""What only some schedulers ask for; each field names them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from windtunnel.specs.fields import Bytes, Seconds, Spec


class SchedulerOptions(Spec):
    """Settings of particular schedulers. Zero and `auto` stand for the scheduler's own choice."""

    reservation: Literal["max_model_len", "power_of_two", "exact"] = Field(
        "max_model_len",
        description="output for which static, orca, sglang and tensorrt-llm-no-evict set memory aside: all that the "
        "model allows, the next power of two, or what the request will really generate",
    )
    preemption: Literal["auto", "recompute", "swap"] = Field(
        "auto", description="vllm-v0, fastserve, fastswitch, srpt: whether preempted requests are swapped to the host"
    )
    swap_space_bytes: Bytes = Field(
        4.0 * 2**30, ge=0, description="host memory per accelerator for swapping (4 GiB is vLLM 0.6's default)"
    )
    swap_group_blocks: int = Field(0, ge=0, description="most neighbouring blocks that one copy moves when swapping")
    swap_overlap: Literal["auto", "on", "off"] = Field("auto", description="swapping beside the step before")
    swap_reuse: Literal["auto", "on", "off"] = Field("auto", description="the host keeps its copy after a swap back")
    swap_call_s: Seconds = Field(0.0, ge=0, description="time to launch one copy when swapping")
    queues: int = Field(8, ge=1, le=30, description="fastserve: queues of the multi-level feedback queue")
    quantum_s: Seconds = Field(0.0, ge=0, description="fastserve: quantum of the first queue; 0 is one decode step")
    starvation_s: Seconds = Field(10.0, gt=0, description="fastserve: wait after which a request is promoted")
    priority_update_steps: int = Field(25, ge=1, description="fastswitch: steps between changes of priority")
    fair_input_weight: float = Field(1.0, ge=0, description="vtc: cost of a prompt token")
    fair_output_weight: float = Field(2.0, ge=0, description="vtc: cost of a generated token")
    length_error: float = Field(
        0.0, ge=0, description="predicted: standard deviation of the error in the logarithm of predicted output lengths"
    )
    deadline_s: Seconds = Field(1.0, ge=0, description="edf: first token due this long after arrival ...")
    deadline_per_token_s: Seconds = Field(0.0, ge=0, description="... plus this for every prompt token")
    history: int = Field(1000, ge=1, description="lightllm: finished requests whose lengths are remembered")
    new_token_ratio: float = Field(0.7, gt=0, le=1, description="sglang: share of possible output reserved at first")
    least_new_token_ratio: float = Field(0.098, gt=0, le=1, description="sglang: the least that it falls to")

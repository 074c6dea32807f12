"""torchtitan's job configuration (TOML) for a training job.

Names and rules as in torchtitan 0.2.2 (`torchtitan/config/job_config.py` and `distributed/pipeline_parallel.py`).
"""

from __future__ import annotations

from functools import lru_cache

import yaml

from windtunnel.report.launch_training import Draft, TrainingLaunch, common_refusals, place_notes, torchrun
from windtunnel.specs.fields import Source, Spec
from windtunnel.specs.load import build, catalogue_folder
from windtunnel.specs.training import TrainingJob, chunk_layers

ENGINE = "torchtitan 0.2.2"
Value = bool | int | str | list[str] | list[list[str]]
Tables = dict[str, dict[str, Value]]


class TorchtitanModels(Spec):
    """`catalogue/torchtitan_models.yaml`: module and flavour by model."""

    models: dict[str, tuple[str, str]]
    sources: tuple[Source, ...] = ()


@lru_cache(maxsize=1)
def torchtitan_models() -> dict[str, tuple[str, str]]:
    """Module and flavour of every model that torchtitan defines."""
    name = "torchtitan_models.yaml"
    data = yaml.safe_load(catalogue_folder(name).read_text(encoding="utf-8"))
    return build(TorchtitanModels, data, f"catalogue/{name}").models


def torchtitan(job: TrainingJob) -> TrainingLaunch:
    """A TOML file and the command that reads it, or why not."""
    draft = Draft()
    _refusals(job, draft)
    draft.words += [*torchrun(job), "-m", "torchtitan.train", "--job.config_file", "windtunnel.toml"]
    place_notes(job, draft)
    tables: Tables = {"model": _model(job, draft)}
    tables["training"] = _training(job, draft)
    tables["parallelism"] = _parallelism(job, draft)
    tables["activation_checkpoint"] = _recompute(job, draft)
    tables["optimizer"] = _optimizer(job, draft)
    tables["compile"] = {"enable": job.plan.fused_kernels or job.plan.tp_overlap}
    tables |= _narrow(job, tables["model"], draft)
    tables["metrics"] = {"log_freq": 1}
    _differences(job, draft)
    return draft.launch(ENGINE, (("windtunnel.toml", toml(tables)),))


def toml(tables: Tables) -> str:
    """Tables as TOML."""
    parts = []
    for name, rows in tables.items():
        parts.append("\n".join([f"[{name}]", *(f"{key} = {_value(value)}" for key, value in rows.items())]))
    return "\n\n".join(parts) + "\n"


def _value(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return f'"{value}"'
    if value and isinstance(value[0], list):
        return "[\n" + "".join(f"  {_value(list(row))},\n" for row in value) + "]"
    return "[" + ", ".join(f'"{item}"' for item in value) + "]"


def _refusals(job: TrainingJob, draft: Draft) -> None:
    plan = job.plan
    common_refusals(job, draft, "torchtitan")
    schedule = plan.pipeline_schedule
    draft.refuse(
        f"torchtitan has 1F1B, GPipe and Interleaved1F1B for these stages, not {schedule}",
        when=schedule not in ("1f1b", "gpipe", "interleaved"),
    )
    ulysses = plan.context_parallel > 1 and plan.context_method == "ulysses"
    draft.refuse("torchtitan's context parallelism passes keys and values around, not heads (Ulysses)", when=ulysses)
    draft.refuse("torchtitan shards weights and gradients as well (FSDP), not states alone", when=plan.zero_stage == 1)
    others = plan.tensor_parallel * plan.pipeline_parallel * plan.context_parallel * plan.expert_parallel
    plain = plan.zero_stage == 0 and job.data_parallel > 1 and others > 1
    draft.refuse("torchtitan replicates weights (DDP) only without any other parallelism", when=plain)
    group = plan.zero_group
    cut = plan.zero_stage and group and group % plan.context_parallel
    draft.refuse(f"the {plan.context_parallel} context ranks must divide the sharding group of {group}", when=cut)
    draft.refuse("torchtitan trains in bf16 or fp32, not fp16", when="fp16" in (plan.weight_dtype, plan.compute_dtype))
    draft.refuse("torchtitan does not train in nvfp4", when=plan.compute_dtype == "nvfp4")
    narrow = plan.weight_dtype not in ("bf16", "fp32", "tf32", "fp16")
    draft.refuse(f"torchtitan keeps no weights in {plan.weight_dtype}", when=narrow)
    draft.refuse("torchtitan keeps states in fp32 beside fp32 weights", when=plan.state_dtype == "bf16")
    draft.refuse("torchtitan trains no layers that predict further ahead", when=plan.mtp_layers)
    draft.refuse("torchtitan does not offload activations", when=plan.offload_activations != "none")
    disk = "nvme" in (plan.offload_optimizer, plan.offload_weights)
    draft.refuse("torchtitan does not offload to NVMe", when=disk)
    spread = plan.expert_parallel > 1 and plan.expert_tensor not in (1, plan.tensor_parallel)
    draft.refuse("torchtitan's expert TP degree is 1 or the TP degree", when=spread)


def _model(job: TrainingJob, draft: Draft) -> dict[str, Value]:
    known = torchtitan_models()
    if job.model.name not in known:
        families = ", ".join(dict.fromkeys(name for name, _ in known.values()))
        draft.refuse(f"torchtitan defines no {job.model.name} (its models: {families})")
        return {}
    name, flavor = known[job.model.name]
    draft.note("point hf_assets_path at the model's tokenizer")
    return {"name": name, "flavor": flavor, "hf_assets_path": f"./assets/hf/{job.model.name}"}


def _training(job: TrainingJob, draft: Draft) -> dict[str, Value]:
    """Without stages a step accumulates microbatches; with stages all of them make up the local batch."""
    plan = job.plan
    staged = plan.pipeline_parallel > 1
    wide = plan.weight_dtype in ("fp32", "tf32")
    rows: dict[str, Value] = {
        "local_batch_size": plan.micro_batch * (job.microbatches if staged else 1),
        "global_batch_size": job.global_batch_sequences,
        "seq_len": job.seq_len,
        "steps": 30,
        "dataset": "c4_test",
        "dtype": "float32" if plan.master_weights else "bfloat16",
        "mixed_precision_param": "float32" if wide else "bfloat16",
    }
    host = [name for name in ("optimizer", "weights") if getattr(plan, f"offload_{name}") == "host"]
    if host:
        rows["enable_cpu_offload"] = True
        draft.note("torchtitan offloads weights, gradients and states together", when=len(host) == 1)
        draft.refuse("torchtitan offloads only sharded states (FSDP)", when=not plan.zero_stage)
    return rows


def _parallelism(job: TrainingJob, draft: Draft) -> dict[str, Value]:
    plan = job.plan
    data, context = job.data_parallel, plan.context_parallel
    shard = 1 if not plan.zero_stage else (max(plan.zero_group // context, 1) if plan.zero_group else data)
    rows: dict[str, Value] = {
        "data_parallel_replicate_degree": data // shard,
        "data_parallel_shard_degree": shard,
        "tensor_parallel_degree": plan.tensor_parallel,
        "context_parallel_degree": context,
        "pipeline_parallel_degree": plan.pipeline_parallel,
    }
    if plan.zero_stage:
        rows["fsdp_reshard_after_forward"] = "always" if plan.zero_stage == 3 else "never"
    if plan.tp_overlap and plan.tensor_parallel > 1:
        rows["enable_async_tensor_parallel"] = True
    if context > 1:
        rows["context_parallel_rotate_method"] = "alltoall"
    if plan.pipeline_parallel > 1:
        rows |= _pipeline(job)
    if job.model.moe is not None and plan.expert_parallel > 1:
        rows["expert_parallel_degree"] = plan.expert_parallel
        rows["expert_tensor_parallel_degree"] = plan.expert_tensor
        if plan.moe_dedupe or plan.moe_fused_dispatch:
            rows["expert_parallel_comm_backend"] = "deepep"
    return rows


def _pipeline(job: TrainingJob) -> dict[str, Value]:
    """The schedule, and its stages by number of layers where torchtitan's own rule deals them alike, else by name."""
    plan, layers = job.plan, job.model.layers
    names = {"1f1b": "1F1B", "gpipe": "GPipe", "interleaved": "Interleaved1F1B"}
    rows: dict[str, Value] = {
        "pipeline_parallel_schedule": names.get(plan.pipeline_schedule, plan.pipeline_schedule),
        "pipeline_parallel_microbatch_size": plan.micro_batch,
    }
    ranks, total = plan.pipeline_parallel, plan.pipeline_parallel * plan.virtual_stages
    dealt = chunk_layers(layers, plan)
    along = [dealt[stage % ranks][stage // ranks] for stage in range(total)]
    for first, last in ((1, 1), (0, 0), (1, 0), (0, 1)):
        each, extra = divmod(layers + first + last, total)
        held = [each + (stage < extra) for stage in range(total)]
        held[0], held[-1] = held[0] - first, held[-1] - last
        if held == along and each >= max(first, last):
            rows["pipeline_parallel_layers_per_stage"] = each + bool(extra)
            rows["pipeline_parallel_first_stage_less_layers"] = first
            rows["pipeline_parallel_last_stage_less_layers"] = last
            return rows
    rows["module_fqns_per_model_part"] = _named(along)
    return rows


def _named(along: list[int]) -> list[list[str]]:
    """Modules of every stage by name."""
    stages, done = [], 0
    for held in along:
        stages.append([f"layers.{done + i}" for i in range(held)])
        done += held
    stages[0].insert(0, "tok_embeddings")
    stages[-1] += ["norm", "output"]
    return stages


def _recompute(job: TrainingJob, draft: Draft) -> dict[str, Value]:
    plan = job.plan
    if plan.recompute == "none":
        return {"mode": "none"}
    if plan.recompute == "full":
        some = plan.recompute_layers * plan.pipeline_parallel
        if not some or some >= job.model.layers:
            return {"mode": "full"}
        draft.note("torchtitan recomputes every n-th layer, not the first of each rank")
        return {"mode": "selective", "selective_ac_option": str(max(round(job.model.layers / some), 1))}
    draft.note(
        "torchtitan's selective recomputation keeps attention and every second product, and computes the rest again"
    )
    return {"mode": "selective", "selective_ac_option": "op"}


def _optimizer(job: TrainingJob, draft: Draft) -> dict[str, Value]:
    plan = job.plan
    draft.refuse(f"torchtitan has Adam and AdamW, not {plan.optimizer}", when=plan.optimizer != "adamw")
    rows: dict[str, Value] = {"name": "AdamW"}
    if plan.layerwise_update:
        draft.refuse(
            "torchtitan updates layers in the backward pass only without stages", when=plan.pipeline_parallel > 1
        )
        rows["early_step_in_backward"] = True
    return rows


def _narrow(job: TrainingJob, model: dict[str, Value], draft: Draft) -> Tables:
    """Converters for 8-bit arithmetic."""
    kind = {"fp8": "float8", "mxfp8": "mx"}.get(job.plan.compute_dtype)
    if kind is None:
        return {}
    converters = [f"quantize.linear.{kind}"]
    tables: Tables = {}
    if kind == "float8":
        tables["quantize.linear.float8"] = {"recipe_name": "tensorwise", "filter_fqns": ["output"]}
        if job.plan.zero_stage:
            tables["quantize.linear.float8"] = {
                "enable_fsdp_float8_all_gather": True,
                "precompute_float8_dynamic_scale_for_fsdp": True,
                "filter_fqns": ["output"],
            }
    else:
        tables["quantize.linear.mx"] = {"recipe_name": "mxfp8_cublas", "filter_fqns": ["output"]}
    if job.model.moe is not None:
        converters.append(f"quantize.grouped_mm.{kind}")
        tables[f"quantize.grouped_mm.{kind}"] = {"fqns": ["experts"]}
    model["converters"] = list(converters)
    draft.note("8-bit products need torchao")
    return tables


def _differences(job: TrainingJob, draft: Draft) -> None:
    plan = job.plan
    unsharded = plan.tensor_parallel > 1 and not plan.sequence_parallel
    draft.note("torchtitan always shards norms and residuals over TP ranks (sequence parallelism)", when=unsharded)
    draft.note("torchtitan reduces gradients in fp32", when=plan.grad_dtype != "fp32" and plan.zero_stage)
    draft.note("torchtitan has no dropout", when=plan.dropout)
    draft.note("torchtitan's attention is PyTorch's fused one", when=not plan.flash_attention)
    draft.note("torchtitan captures no graphs of its own", when=plan.cuda_graphs)
    draft.note("attention's scores stay in 16 bits", when=plan.attention_dtype == "fp8")
    one_by_one = plan.moe_overlap and plan.expert_parallel > 1
    draft.note("torchtitan overlaps expert all-to-all only in its DualPipeV schedule", when=one_by_one)
    draft.note("30 steps on its test data, to measure the step: replace dataset and steps for a real run")

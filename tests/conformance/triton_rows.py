"""Which tests show each row of the tables that a Triton + FasterTransformer LLaMA deployment is described by.

A claim is a test's id as pytest lists it, behind tests/, without its parameters for all of them; or "cc:Suite.Name" for a
GoogleTest. triton_rows_test.py holds every claim against what is collected, and every row of docs/compatibility*.md
against the claims.
"""

from conformance.triton_messages import CONFIGURATION, ENUMS, RPCS, SERVICE

CONFORMANCE = {short: f"conformance/triton_{short}_test.py::test_" for short in (
    "clients", "connections", "cuda_memory", "endpoints", "errors", "foreign_clients", "fuzz", "http", "http_errors",
    "limits", "load", "metrics", "outputs", "protocol", "tables", "tensors")}
CLUSTER = {short: f"cluster/{short}_test.py::test_" for short in (
    "beam_search", "checkpoints", "failure", "fastertransformer_folder", "http_hostile", "http_streams", "model_control",
    "slow_readers", "triton_repository")}


def of(short, *names):
    """Claims of one file: of("tables", "metadata[ensemble]", …)."""
    return [{**CONFORMANCE, **CLUSTER}[short] + name for name in names]


def cc(*names):
    return [f"cc:{name}" for name in names]


SAMPLING = ["runtime_top_k", "runtime_top_p", "beam_search_diversity_rate", "temperature", "len_penalty",
            "repetition_penalty", "random_seed", "is_return_log_probs", "beam_width", "start_id", "end_id",
            "prompt_learning_task_name_ids", "top_p_decay", "top_p_min", "top_p_reset_ids"]
TENSORS = {
    "ensemble": (["INPUT_0", "INPUT_1", "INPUT_2", "INPUT_3", *SAMPLING],
                 ["OUTPUT_0", "sequence_length", "cum_log_probs", "output_log_probs"]),
    "preprocessing": (["QUERY", "BAD_WORDS_DICT", "STOP_WORDS_DICT", "REQUEST_OUTPUT_LEN"],
                      ["INPUT_ID", "REQUEST_INPUT_LEN", "BAD_WORDS_IDS", "STOP_WORDS_IDS", "REQUEST_OUTPUT_LEN",
                       "PROMPT_LEARNING_TASK_NAME_IDS"]),
    "fastertransformer": (["input_ids", "input_lengths", "request_output_len", "bad_words_list", "stop_words_list",
                           *SAMPLING], ["output_ids", "sequence_length", "cum_log_probs", "output_log_probs"]),
    "postprocessing": (["TOKENS_BATCH", "sequence_length"], ["OUTPUT"]),
}


def tensor_rows(model):
    inputs, outputs = TENSORS[model]
    return {**{f"input {name}": of("tensors", f"input[{model}-{name}]") for name in inputs},
            **{f"output {name}": of("tensors", f"output[{model}-{name}]") for name in outputs}}


MODELS = {
    "ensemble": {
        **tensor_rows("ensemble"),
        "metadata and configuration": of("tables", "metadata[ensemble]", "configuration[ensemble]"),
        "only element 0 of each row of INPUT_0 to INPUT_3 is used": of(
            "tensors", *(f"only_the_first_element_of_a_row_is_used[INPUT_{number}]" for number in range(4))),
        "tensors that no model here has: request_prompt_embedding, memory_len": of(
            "tensors", "tensor_of_no_llama_is_unexpected[request_prompt_embedding]",
            "tensor_of_no_llama_is_unexpected[memory_len]"),
        "the wiring of its steps, model_version -1": of("tables", "ensemble_wiring"),
        "decoupled because a step is": of("tables", "configuration[ensemble]"),
        "no unexpected deadlock where cum_log_probs were not asked for": of("clients", "requested_outputs_only"),
        "data, then an empty final response": of("clients", "an_empty_final_response_comes_only_to_who_asked"),
    },
    "preprocessing": {
        **tensor_rows("preprocessing"),
        "BOS in front and no EOS, padded on the right, lengths beside": of(
            "clients", "three_models_by_hand_give_what_the_ensemble_gives"),
        "the dicts may be absent: BAD_WORDS_IDS of none": of("tensors", "output[preprocessing-BAD_WORDS_IDS]"),
        "no truncation, no limit of length": of("limits", "a_batch_above_the_tokenizers_message_is_served"),
    },
    "word lists": {
        'text form: "", a lone newline, two words, quotes': of("tables", "word_lines_are_csv") + cc(
            "WordList.ReadsALineAsPythonsCsvDoes"),
        "text form: a raw newline is refused": of("tables", "a_newline_in_a_word_line_is_refused"),
        "id form: ids, cumulative end offsets, -1 behind": cc("WordList.ReadsIdsByTheirEndOffsets",
                                                             "WordList.PacksWhatItReads"),
        "empty: [[0], [-1]]": of("tensors", "default_word_list[bad_words_list]", "default_word_list[stop_words_list]"),
        "any words work, found in the text across borders of tokens": of("clients", "stop_words_as_text",
                                                                         "words_of_preprocessing_stop_fastertransformer"),
    },
    "fastertransformer": {
        **tensor_rows("fastertransformer"),
        **{f"parameter {name}": of("triton_repository", f"parameter_of_the_model[{name}--]") + of(
            "tables", "parameters_of_fastertransformer") for name in (
                "tensor_para_size", "pipeline_para_size", "data_type", "model_type", "model_checkpoint_path",
                "enable_custom_all_reduce")},
        "parameter int8_mode": of("triton_repository", "parameter_of_the_model[int8_mode--]",
                                  "a_repository_is_served_as_it_says"),
        "KIND_CPU, one instance": of("tables", "configuration[fastertransformer]"),
        "at most 1024 rows": of("tables", "batch_limit") + of("errors", "code_and_text"),
    },
    "postprocessing": {**tensor_rows("postprocessing"), "special tokens are shown": of(
        "http", "pre_and_postprocessing_are_the_tokenizer")},
    "outputs": {
        "output_ids: prompt, output, then end_id": of("tables", "output_ids_are_filled_with_the_end_id"),
        "sequence_length counts the padded prompt": of("tables", "output_ids_are_filled_with_the_end_id") + of(
            "outputs", "beams_of_several_rows[2]"),
        "the end token and stop words are counted": of("tables", "the_end_token_is_counted_and_shown") + of(
            "clients", "stop_and_bad_words_as_ids"),
        "a row stops at its own length": of("tables", "output_ids_are_filled_with_the_end_id") + of(
            "clients", "rows_of_a_batch_are_what_they_are_alone"),
        "OUTPUT_0 is flat, row by row, beam by beam": of("outputs", "ensemble") + of(
            "tensors", "output[ensemble-OUTPUT_0]"),
        "output_log_probs from the first new token, cum_log_probs their sum": of("outputs", "greedy", "beams"),
    },
    "streams": {
        "every partial response has the full tensors": of(
            "tensors", "partial_responses_carry_full_tensors[ensemble]",
            "partial_responses_carry_full_tensors[fastertransformer]"),
        "cadence of 5 positions": of("clients", "partial_responses_are_cumulative_with_a_cadence_of_five") + cc(
            "TritonTest.PartialResponsesComeAtMultiplesOfFiveAndTheFinalOneAddsAToken"),
        "cadence of 1: one token longer each": of("clients", "issue_request_client_with_a_stream"),
        "the final mark, once, and the empty final response": of(
            "clients", "an_empty_final_response_comes_only_to_who_asked", "partial_responses_are_cumulative_with_a_"
            "cadence_of_five"),
        "responses of requests interleave, each in order": of(
            "clients", "many_requests_interleave_on_one_stream_and_stay_in_order"),
        "unary calls of decoupled models": of("clients", "end_to_end_client_with_eight_rows") + of(
            "http", "the_end_to_end_client_gets_the_golden_texts"),
        "not decoupled: one response a request, in order": of(
            "clients", "without_decoupling_a_stream_has_one_response_a_request_in_order"),
    },
    "shipped clients": {
        "the end-to-end client": of("clients", "end_to_end_client_with_eight_rows") + of(
            "http", "the_end_to_end_client_gets_the_golden_texts"),
        "the client that issues requests": of("clients", "issue_request_client_with_a_stream"),
        "the trap of end_id 1": of("tables", "the_end_token_is_counted_and_shown",
                                   "stopping_on_the_tokenizers_end_too"),
    },
}

ENGINE = {
    "parameters": {
        **{name: of("tensors", f"default[{name}]") for name in SAMPLING + ["min_length"] if name not in (
            "prompt_learning_task_name_ids", "runtime_top_k", "runtime_top_p", "temperature", "top_p_decay", "top_p_min",
            "start_id", "end_id", "beam_width", "is_return_log_probs")},
        **{name: of("tensors", f"default[{name}]", f"values_that_mean_the_same[{name}--]") for name in (
            "runtime_top_k", "runtime_top_p", "temperature", "top_p_decay", "top_p_min", "start_id", "end_id")},
        "beam_width: element 0 rules": of("tensors", "default[beam_width]", "element_0_rules_for_the_whole_batch"),
        "is_return_log_probs: element 0 rules": of("tensors", "default[is_return_log_probs]",
                                                   "element_0_rules_for_the_whole_batch"),
        "prompt_learning_task_name_ids": of("tables", "prompt_learning_is_refused"),
        "bad_words_list": of("outputs", "greedy_with_word_lists") + of("tensors", "default_word_list[bad_words_list]"),
        "stop_words_list, also across the end of the prompt": of("outputs", "greedy_with_word_lists") + of(
            "tensors", "default_word_list[stop_words_list]"),
        "each row its own values": of("tensors", "rows_have_values_of_their_own"),
        "the order of a step: words, temperature, penalty, min_length, draw": of("outputs", "greedy",
                                                                               "draws_have_the_distribution"),
        "draws by distribution, the same for the same seed": of("outputs", "draws_have_the_distribution") + of(
            "tables", "equal_requests_have_equal_answers"),
        "the factual nucleus": of("outputs", "a_factual_nucleus_decays_and_is_restored"),
    },
    "beam search": {
        "scores with len_penalty and diversity": of("outputs", "beams"),
        "k, p and the seed of draws are ignored": of("tensors", "values_that_mean_the_same[beam_width--]"),
        "temperature, repetition_penalty and min_length come before": of("outputs", "beams") + of(
            "beam_search", "parameters_shape_the_search_as_in_the_reference"),
        "partial responses with the beams as they stand": of(
            "outputs", "partial_beams", "partial_beams_are_whole_decodings") + cc(
            "TritonTest.BeamsAreShownUpToAStopWord", "BeamPartialsTest.ComeWhenAllRowsHaveShownAsMuch", "BeamPartialsTest.ARowThatHasEndedShowsItsEnd"),
        "a beam that ends keeps its slot, all beams are returned": of(
            "outputs", "beams_end_where_the_end_token_is_likely"),
        "rows with values of their own": of("outputs", "beams_of_several_rows"),
    },
    "prompt learning": {
        "prompt_learning_task_name_ids of a model without it": of("errors", "code_and_text") + of(
            "tables", "prompt_learning_is_refused"),
        "request_prompt_embedding, request_prompt_lengths, request_prompt_type, memory_len, session_len": of(
            "tensors", *(f"tensor_of_no_llama_is_unexpected[{name}]" for name in (
                "request_prompt_embedding", "request_prompt_lengths", "request_prompt_type", "memory_len", "session_len"))),
        "prompt_learning_type, num_tasks in config.ini": of(
            "fastertransformer_folder", "key_of_prompt_learning[num_tasks-2]",
            "key_of_prompt_learning[prompt_learning_type-3]"),
    },
    "files of the converter": {
        **{file: of("fastertransformer_folder", f"file[{file}]") for file in (
            "model.wte.weight.bin", "model.final_layernorm.weight.bin", "model.lm_head.weight.bin",
            "model.layers.{l}.input_layernorm.weight.bin", "model.layers.{l}.post_attention_layernorm.weight.bin",
            "model.layers.{l}.attention.query_key_value.weight.{r}.bin",
            "model.layers.{l}.attention.dense.weight.{r}.bin", "model.layers.{l}.mlp.gate_proj.weight.{r}.bin",
            "model.layers.{l}.mlp.up_proj.weight.{r}.bin", "model.layers.{l}.mlp.down_proj.weight.{r}.bin")},
        "any degree of the folder at any degree of the workers": of(
            "checkpoints", "a_fastertransformer_folder_loads_at_any_degree"),
        **{f"config.ini {key}": of("fastertransformer_folder", f"required_key_of_config_ini[{key}-{wrong}]")
           for key, wrong in (("head_num", "0"), ("size_per_head", "x"), ("inter_size", "-1"), ("num_layer", "1.5"),
                              ("vocab_size", ""), ("rotary_embedding", "7"), ("weight_data_type", "fp8"))},
        "config.ini num_layer below the layers that lie there": of(
            "fastertransformer_folder", "key_num_layer_below_the_layers_that_lie_there"),
        "config.ini layernorm_eps, start_id, end_id, model_name, prompt_learning_start_id": of(
            "fastertransformer_folder", "keys_that_are_not_needed"),
    },
    "at run time": {
        "a client that left frees the engine": of("tables", "a_client_that_leaves_frees_the_engine"),
        "requests run beside each other and do not change each other": of(
            "clients", "rows_of_a_batch_are_what_they_are_alone") + of("load", "a_hundred_streams_and_a_hundred_requests_"
                                                                       "at_once"),
        "loading and unloading": of("model_control", "unloading_frees_the_memory_of_every_rank_and_loading_brings_the_"
                                    "same_model_back"),
        "a context has a limit, and an error that says so": of("tables", "wrong_values_name_their_tensor"),
    },
}

WIRE = {
    "rpcs": {name: of("protocol", f"rpc[{name}]") + (of("protocol", f"rpc_is_answered[{name}]")
                                                    if name != "ModelStreamInfer" else []) for name in RPCS},
    "messages": {name: of("protocol", f"message[{name}]") for name in [*SERVICE, *CONFIGURATION]},
    "enums": {name: of("protocol", f"enum[{name}]") for name in ENUMS},
    "health": {"grpc.health.v1.Health Check": of("protocol", "health_check")},
    "data of tensors": {
        "datatypes": cc("Tensor.KnowsEveryDatatypeByNameAndSize"),
        "raw contents, one an input that is not in shared memory": of(
            "clients", "shared_memory_carries_inputs_and_outputs"),
        "typed contents of every kind": of("tables", "typed_contents_of_every_kind") + of(
            "foreign_clients", "typed_contents_unary_and_streaming[go]", "typed_contents_unary_and_streaming[cpp]"),
        "contents and raw_input_contents; no data": of("tables", "contents_errors"),
        "raw_output_contents, one an output, empty for shared memory": of(
            "clients", "shared_memory_carries_inputs_and_outputs"),
        "requested outputs alone": of("clients", "requested_outputs_only"),
        "classification": of("tables", "classification") + cc("Classification.TakesTheGreatestOfEachRow"),
        "parameters of shared memory": of(
            "http", "system_shared_memory_for_inputs_and_outputs") + cc("RequestCheck.ReadsSharedMemoryParameters"),
        "an output's region is checked when it is asked for": of(
            "limits", "an_output_region_is_checked_when_it_is_asked_for"),
        "model_version and id come back": of("clients", "a_response_says_model_version_and_id"),
        "messages of many megabytes": of("connections", "message_size_of_many_megabytes_both_ways"),
        "keepalive": of("connections", "keepalive_pings_are_taken_as_often_as_they_come"),
        "gzip and deflate": of("clients", "compressed_requests[gzip]", "compressed_requests[deflate]"),
    },
    "request parameters": {
        "sequence_id, sequence_start, sequence_end": of(
            "tables", "request_parameters[sequence_id-sequence_start-sequence_end-]", "request_parameters[sequence_id-]",
            "wrong_parameters[sequence_id-]", "wrong_parameters[sequence_start-]", "wrong_parameters[sequence_end-]"),
        "priority": of("tables", "request_parameters[priority-]", "wrong_parameters[priority-]",
                       "priority_as_an_unsigned_number"),
        "timeout": of("tables", "request_parameters[timeout-]", "wrong_parameters[timeout-]"),
        "triton_enable_empty_final_response": of(
            "clients", "an_empty_final_response_comes_only_to_who_asked") + of(
                "tables", "wrong_parameters[triton_enable_empty_final_response-]"),
        "other triton_ keys": of("tables", "wrong_parameters[triton_unknown-]"),
        "binary_data_output": of("endpoints", "infer_with_binary_data"),
        "anything else": of("tables", "request_parameters[anything-]", "request_parameters[number-]",
                            "request_parameters[flag-]"),
        "triton_grpc_error in the metadata": of("tables", "a_stream_can_end_with_a_status"),
    },
    "errors": {
        **{code: of("errors", f"code_and_text[grpc-{code}]", f"code_and_text[http-{code}]") for code in (
            "INTERNAL", "NOT_FOUND", "NOT_FOUND version", "UNAVAILABLE", "UNSUPPORTED", "ALREADY_EXISTS",
            "INVALID_ARG unexpected input", "INVALID_ARG unexpected output", "INVALID_ARG number of inputs",
            "INVALID_ARG data-type", "INVALID_ARG shape", "INVALID_ARG batch size", "INVALID_ARG too many rows")},
        "CANCELLED": of("errors", "code_cancelled"),
        "UNKNOWN, and what HTTP makes of each code": cc("HttpError.StatusOfEachCode"),
        "no available versions; not at ready state": of("clients", "explicit_control_loads_and_unloads"),
        "a stream goes on after an error": of("errors", "an_error_in_a_stream_has_text_and_id_and_no_code") + of(
            "clients", "a_stream_goes_on_after_an_error"),
        "readiness is no error": of("errors", "readiness_is_no_error[grpc]", "readiness_is_no_error[http]"),
        "the request's id is in front": of("limits", "limits_behind_the_door_name_tensors",
                                           "errors_of_parameters_tell_the_request"),
        "limits name their tensor": of("limits", "a_text_above_the_limit_names_its_tensor",
                                       "a_sequence_above_the_limit_names_its_tensor",
                                       "a_text_above_the_default_limits_is_no_overload"),
    },
    "values": {
        "name, version, extensions of the server": of("tables", "server_metadata"),
        "platform, versions": of("tables", "metadata[ensemble]", "metadata[fastertransformer]", "metadata[preprocessing]",
                                 "metadata[postprocessing]"),
        "states of models": of("tables", "repository_index") + of("clients",
                                                                           "explicit_control_loads_and_unloads"),
        "load parameters config and file:": of(
            "connections", "load_parameter_is_refused_by_name[config]",
            "load_parameter_is_refused_by_name[file:1/model.bin]"),
        "unload_dependents": of("clients", "explicit_control_loads_and_unloads"),
        "trace_file, trace_level, trace_rate, trace_count, log_frequency": of("clients", "traces_are_written"),
        "log_info, log_format and the others": of("clients", "log_settings_act") + of(
            "endpoints", "endpoint[GET /v2/logging]"),
    },
    "endpoints": {
        **{name: of("endpoints", f"endpoint[{name}]") for name in (
            "GET /v2", "GET /v2/health/live", "GET /v2/health/ready", "GET /v2/models/ensemble",
            "GET /v2/models/ensemble/versions/1", "GET /v2/models/ensemble/ready",
            "GET /v2/models/ensemble/versions/1/ready", "GET /v2/models/fastertransformer/config",
            "GET /v2/models/ensemble/stats", "GET /v2/models/stats", "POST /v2/models/ensemble/infer",
            "POST /v2/models/ensemble/generate", "POST /v2/repository/models/ensemble/load",
            "POST /v2/repository/models/ensemble/unload", "GET /v2/systemsharedmemory/status",
            "GET /v2/systemsharedmemory/region/r/status", "POST /v2/systemsharedmemory/region/r/register",
            "POST /v2/systemsharedmemory/region/r/unregister", "POST /v2/systemsharedmemory/unregister",
            "GET /v2/cudasharedmemory/status", "GET /v2/cudasharedmemory/region/r/status",
            "POST /v2/cudasharedmemory/region/r/register", "POST /v2/cudasharedmemory/region/r/unregister",
            "POST /v2/cudasharedmemory/unregister", "GET /v2/trace/setting", "POST /v2/trace/setting",
            "GET /v2/models/ensemble/trace/setting", "GET /v2/logging", "POST /v2/logging")},
        "POST /v2/repository/index": of("endpoints", "endpoint[POST /v2/repository/index0]",
                                        "endpoint[POST /v2/repository/index1]"),
        "POST /v2/models/ensemble/generate_stream": of("endpoints", "endpoint_of_events[/v2/models/ensemble/"
                                                       "generate_stream]") + of("http", "generate_stream_is_cumulative_"
                                                                                "and_ends"),
        "405 and 404": of("endpoints", "endpoint_has_no_other_method") + of("http_errors", "other_paths_are_404"),
        "the binary extension": of("endpoints", "infer_with_binary_data") + of(
            "http_errors", "header_lengths_that_lie", "bytes_behind_the_last_input_are_an_error"),
        "gzip and deflate": of("http", "the_end_to_end_client_gets_the_golden_texts"),
        "generate's tensors, parameters and answers": of("endpoints", "generate_of_parameters_and_tensors") + of(
            "http", "generate_answers_with_the_whole_text"),
        "text_input and the other newer names": of("connections", "newer_name"),
    },
    "metrics": {
        **{name: of("metrics", f"counter_of_a_model[{name}]") for name in (
            "nv_inference_request_success", "nv_inference_count", "nv_inference_exec_count",
            "nv_inference_request_duration_us", "nv_inference_queue_duration_us",
            "nv_inference_compute_input_duration_us", "nv_inference_compute_infer_duration_us",
            "nv_inference_compute_output_duration_us")},
        "nv_inference_request_failure by reason": of("metrics", "counter_of_failures_nv_inference_request_failure"),
        "nv_inference_pending_request_count": of("metrics", "gauge_nv_inference_pending_request_count"),
        **{name: of("metrics", f"summary[{name}]") for name in (
            "nv_inference_request_summary_us", "nv_inference_queue_summary_us", "nv_inference_compute_input_summary_us",
            "nv_inference_compute_infer_summary_us", "nv_inference_compute_output_summary_us")},
        "nv_inference_first_response_histogram_ms": of(
            "metrics", "histogram_nv_inference_first_response_histogram_ms"),
        **{name: of("metrics", f"series_of_a_gpu[{name}]") + cc("GpuMetrics.AsksTheLibraryInItsUnits") for name in (
            "nv_gpu_utilization", "nv_gpu_memory_total_bytes", "nv_gpu_memory_used_bytes", "nv_gpu_power_usage",
            "nv_gpu_power_limit", "nv_energy_consumption")},
        **{name: of("metrics", f"series_of_the_host[{name}]") for name in (
            "nv_cpu_utilization", "nv_cpu_memory_total_bytes", "nv_cpu_memory_used_bytes")},
        **{name: of("metrics", f"series_that_has_no_meaning_here[{name}]") for name in (
            "nv_cache_num_hits_per_model", "nv_cache_num_misses_per_model", "nv_cache_hit_duration_per_model",
            "nv_cache_miss_duration_per_model", "nv_cache_hit_summary_per_model", "nv_cache_miss_summary_per_model",
            "nv_pinned_memory_pool_total_bytes", "nv_pinned_memory_pool_used_bytes", "nv_model_load_duration_secs")},
        "the page, its type and its labels": of("metrics", "the_page_of_metrics"),
    },
}


def inputs(*names, models=("ensemble", "fastertransformer")):
    """A tensor's description and checks on the models that have it."""
    return [claim for model in models for name in names if name in TENSORS[model][0]
            for claim in of("tensors", f"input[{model}-{name}]")]


def defaults(*names):
    return [claim for name in names for claim in of("tensors", f"default[{name}]")]


# By file, section, and the first cell of the row.
DOCS = {
    "compatibility.md": {
        "Calls over gRPC": {
            "ServerLive, ServerReady, Health.Check": of("tables", "health") + of(
                "protocol", "rpc_is_answered[ServerLive]", "rpc_is_answered[ServerReady]", "health_check") + cc(
                    "TritonTest.IsReadyWhileATokenizerAnswers"),
            "ModelReady": of("errors", "readiness_is_no_error[grpc]") + of("protocol", "rpc_is_answered[ModelReady]"),
            "ServerMetadata": of("tables", "server_metadata") + of("protocol", "rpc_is_answered[ServerMetadata]"),
            "ModelMetadata, ModelConfig": of("tables", "metadata", "configuration", "parameters_of_fastertransformer")
            + of("protocol", "rpc[ModelMetadata]", "rpc[ModelConfig]"),
            "ModelInfer": of("clients", "end_to_end_client_with_eight_rows") + of("protocol", "rpc[ModelInfer]"),
            "ModelStreamInfer": of("clients", "many_requests_interleave_on_one_stream_and_stay_in_order",
                                   "a_stream_goes_on_after_an_error") + of("tables", "a_stream_can_end_with_a_status"),
            "ModelStatistics": of("clients", "statistics_count") + of("protocol", "rpc_is_answered[ModelStatistics]")
            + cc("StatisticsTest.AFailureOfTheEnsembleIsOneOfTheModelThatFailed",
                 "StatisticsTest.ResponsesOfAStreamAreCountedByIndex"),
            "RepositoryIndex": of("tables", "repository_index") + of("clients", "explicit_control_loads_and_unloads")
            + of("protocol", "rpc[RepositoryIndex]"),
            "RepositoryModelLoad, …Unload": of("protocol", "rpc[RepositoryModelLoad]", "rpc[RepositoryModelUnload]") + of(
                "model_control", "unloading_frees_the_memory_of_every_rank_and_loading_brings_the_same_model_back",
                "an_unload_that_a_load_overtakes_is_answered_at_once") + of(
                    "connections", "load_parameter_is_refused_by_name"),
            "SystemSharedMemory…": of("protocol", "rpc[SystemSharedMemoryRegister]") + of(
                "clients", "shared_memory_carries_inputs_and_outputs") + of(
                    "limits", "an_output_region_is_checked_when_it_is_asked_for") + cc(
                        "SharedMemory.AnObjectThatShrinksIsAnErrorAndNoCrash", "SharedMemory.BoundsWhatANameCosts"),
            "CudaSharedMemory…": of("protocol", "rpc[CudaSharedMemoryRegister]") + of(
                "cuda_memory", "inputs_and_outputs_in_gpu_memory_give_what_a_plain_request_gives") + of(
                    "tables", "cuda_shared_memory_is_refused"),
            "TraceSetting": of("clients", "traces_are_written") + of("protocol", "rpc[TraceSetting]") + cc(
                "TraceScope.FollowsTheScopeAboveInWhatItDoesNotName"),
            "LogSettings": of("clients", "log_settings_act") + of("protocol", "rpc[LogSettings]"),
            "message size": of("connections", "message_size_of_many_megabytes_both_ways") + of(
                "limits", "a_text_above_the_default_limits_is_no_overload", "many_rows_take_several_calls_of_the_tokenizer",
                "a_sequence_above_the_limit_names_its_tensor") + of(
                    "fuzz", "a_message_above_the_limit_ends_its_call_only"),
            "output size": of("tables", "a_small_request_can_not_ask_for_gigabytes") + cc(
                "LongContextTest.OutputsHaveABound", "TritonTest.PreprocessingDoesNotWidenManyRowsToALongOne"),
            "compression, keepalive": of("clients", "compressed_requests") + of(
                "fuzz", "a_compressed_bomb_ends_its_call_only", "every_call_takes_compressed_requests") + of(
                    "connections", "keepalive_pings_are_taken_as_often_as_they_come"),
        },
        "Tensors of `ensemble` and `fastertransformer`": {
            "INPUT_0, input_ids, input_lengths": inputs("INPUT_0", "input_ids", "input_lengths") + of(
                "tables", "wrong_values_name_their_tensor"),
            "INPUT_1, request_output_len": inputs("INPUT_1", "request_output_len") + of(
                "limits", "limits_behind_the_door_name_tensors[INPUT_1]",
                "limits_behind_the_door_name_tensors[request_output_len]"),
            "INPUT_2, INPUT_3 (bad, stop words as text)": inputs("INPUT_2", "INPUT_3") + of(
                "clients", "stop_words_as_text") + of("limits", "limits_behind_the_door_name_tensors[INPUT_2]"),
            "bad_words_list, stop_words_list (ids)": inputs("bad_words_list", "stop_words_list") + of(
                "outputs", "greedy_with_word_lists"),
            "runtime_top_k, runtime_top_p": inputs("runtime_top_k", "runtime_top_p") + defaults(
                "runtime_top_k", "runtime_top_p") + of("outputs", "draws_have_the_distribution"),
            "temperature": inputs("temperature") + defaults("temperature") + of("outputs", "greedy") + cc(
                "GenerationParameters.NamesTensorRowAndLimit"),
            "repetition_penalty": inputs("repetition_penalty") + defaults("repetition_penalty") + of("outputs", "greedy"),
            "random_seed": inputs("random_seed") + defaults("random_seed") + of(
                "tables", "equal_requests_have_equal_answers"),
            "top_p_decay, top_p_min, top_p_reset_ids": inputs("top_p_decay", "top_p_min", "top_p_reset_ids") + defaults(
                "top_p_decay", "top_p_min", "top_p_reset_ids") + of("outputs", "a_factual_nucleus_decays_and_is_restored"),
            "beam_width": inputs("beam_width") + defaults("beam_width") + of("outputs", "beams", "partial_beams", "partial_beams_without_the_prompt"),
            "beam_search_diversity_rate, len_penalty": inputs("beam_search_diversity_rate", "len_penalty") + defaults(
                "beam_search_diversity_rate", "len_penalty") + of("outputs", "beams_of_several_rows"),
            "is_return_log_probs": inputs("is_return_log_probs") + defaults("is_return_log_probs") + of(
                "outputs", "draws_have_the_distribution"),
            "start_id": inputs("start_id") + of("tables", "an_empty_prompt_begins_with_start_id"),
            "end_id": inputs("end_id") + defaults("end_id") + of("tables", "the_end_token_is_counted_and_shown",
                                                                 "stopping_on_the_tokenizers_end_too"),
            "prompt_learning_task_name_ids": inputs("prompt_learning_task_name_ids") + of(
                "tables", "prompt_learning_is_refused"),
            "min_length, presence_penalty": defaults("min_length", "presence_penalty") + of("outputs", "greedy"),
            "frequency_penalty, exclude_input_in_output": defaults("frequency_penalty") + of(
                "clients", "prompt_left_out_and_deltas_on_the_old_names"),
            "OUTPUT_0": of("tensors", "output[ensemble-OUTPUT_0]") + of("outputs", "ensemble"),
            "output_ids": of("tensors", "output[fastertransformer-output_ids]") + of(
                "tables", "output_ids_are_filled_with_the_end_id"),
            "sequence_length": of("tensors", "output[ensemble-sequence_length]") + of("outputs", "beams_of_several_rows"),
            "cum_log_probs, output_log_probs": of(
                "tensors", "output[ensemble-cum_log_probs]", "output[fastertransformer-output_log_probs]") + of(
                    "clients", "requested_outputs_only"),
        },
        "Streams": {
            "cadence": of("clients", "partial_responses_are_cumulative_with_a_cadence_of_five",
                          "issue_request_client_with_a_stream"),
            "cumulative text": cc("TritonTest.PartialTextsHaveWholeCharactersOnly") + of(
                "clients", "partial_responses_are_cumulative_with_a_cadence_of_five"),
            "triton_final_response": of("clients", "partial_responses_are_cumulative_with_a_cadence_of_five") + of(
                "tables", "a_stream_can_end_with_a_status"),
            "triton_enable_empty_final_response": of(
                "clients", "an_empty_final_response_comes_only_to_who_asked") + of(
                    "tables", "wrong_parameters[triton_enable_empty_final_response-]"),
            "deltas": of("clients", "prompt_left_out_and_deltas_on_the_old_names"),
            "a slow client": cc("SlowReaderTest.AClientThatTakesNothingIsCutOff") + of(
                "fuzz", "a_client_that_does_not_read_stalls_nobody"),
            "a client that leaves": of("tables", "a_client_that_leaves_frees_the_engine") + cc(
                "TritonTest.AClientThatLeavesCancelsItsRows"),
        },
    },
    "compatibility_http.md": {
        "Endpoints": {
            "`GET /v2`, `/v2/health/live`, `/v2/health/ready`": of(
                "endpoints", "endpoint[GET /v2]", "endpoint[GET /v2/health/live]", "endpoint[GET /v2/health/ready]"),
            "`GET /v2/models/M[/versions/V]`, `…/config`, `…/stats`, `/v2/models/stats`": of(
                "endpoints", "endpoint[GET /v2/models/ensemble]", "endpoint[GET /v2/models/ensemble/versions/1]",
                "endpoint[GET /v2/models/fastertransformer/config]", "endpoint[GET /v2/models/ensemble/stats]",
                "endpoint[GET /v2/models/stats]"),
            "`GET …/ready`": of("endpoints", "endpoint[GET /v2/models/ensemble/ready]",
                                "endpoint[GET /v2/models/nothing/ready]"),
            "`POST …/infer`": of("endpoints", "endpoint[POST /v2/models/ensemble/infer]") + of(
                "http", "the_end_to_end_client_gets_the_golden_texts"),
            "binary tensors, `Inference-Header-Content-Length`": of("endpoints", "infer_with_binary_data") + of(
                "http_errors", "header_lengths_that_lie", "bytes_behind_the_last_input_are_an_error"),
            "raw binary request (header length 0)": of("http_errors", "header_lengths_that_lie"),
            "gzip and deflate, requests and answers of infer": of(
                "http", "the_end_to_end_client_gets_the_golden_texts") + cc(
                    "ContentCoding.TakesRawDeflateAndConcatenatedGzip"),
            "`POST …/generate`, `…/generate_stream`": of(
                "endpoints", "endpoint[POST /v2/models/ensemble/generate]",
                "endpoint_of_events[/v2/models/ensemble/generate_stream]") + of(
                    "http", "an_error_before_the_first_event_has_a_status"),
            "`POST /v2/repository/index`, `…/load`, `…/unload`": of(
                "endpoints", "endpoint[POST /v2/repository/index0]", "endpoint[POST /v2/repository/models/ensemble/load]",
                "endpoint[POST /v2/repository/models/ensemble/unload]") + of(
                    "http", "explicit_control_really_loads_and_unloads_and_latencies_are_opt_in") + of(
                        "connections", "load_parameter_is_refused_by_name"),
            "system shared memory": of("http", "system_shared_memory_for_inputs_and_outputs") + of(
                "endpoints", "endpoint[GET /v2/systemsharedmemory/status]"),
            "CUDA shared memory": of("http", "cuda_shared_memory_is_refused_clearly") + of(
                "cuda_memory", "inputs_and_outputs_in_gpu_memory_give_what_a_plain_request_gives[http]"),
            "`GET, POST /v2/trace/setting`, `/v2/models/M/trace/setting`, `/v2/logging`": of(
                "endpoints", "endpoint[GET /v2/trace/setting]", "endpoint[POST /v2/trace/setting]",
                "endpoint[GET /v2/models/ensemble/trace/setting]", "endpoint[GET /v2/logging]") + of(
                    "http", "trace_and_log_settings"),
            "classification outputs": of("tables", "classification") + cc("Classification.TakesTheGreatestOfEachRow"),
            "unknown path, other method": of("http_errors", "other_paths_are_404", "other_methods_are_405") + of(
                "endpoints", "endpoint_has_no_other_method"),
            "HTTP/1.1": cc("HttpServer.AnswersManyRequestsOnOneConnection", "HttpServer.AnswersPipelinedRequestsInOrder",
                           "HttpServer.InvitesABodyThatWaitsForIt") + of(
                               "http_hostile", "a_client_that_leaves_frees_its_place"),
            "TLS": of("connections", "tls_is_not_spoken[http]"),
        },
        "Metrics": {
            "`nv_inference_request_success`, `_count`, `_exec_count`, `_request_duration_us`, `_queue_duration_us`, "
            "`_compute_input_duration_us`, `_compute_infer_duration_us`, `_compute_output_duration_us`": of(
                "metrics", *(f"counter_of_a_model[nv_inference_{name}]" for name in (
                    "request_success", "count", "exec_count", "request_duration_us", "queue_duration_us",
                    "compute_input_duration_us", "compute_infer_duration_us", "compute_output_duration_us"))),
            "`nv_inference_request_failure`": of("metrics", "counter_of_failures_nv_inference_request_failure"),
            "`nv_inference_pending_request_count`": of("metrics", "gauge_nv_inference_pending_request_count"),
            "`nv_cpu_utilization`, `nv_cpu_memory_total_bytes`, `nv_cpu_memory_used_bytes`": of(
                "metrics", *(f"series_of_the_host[nv_cpu_{name}]" for name in (
                    "utilization", "memory_total_bytes", "memory_used_bytes"))),
            "`nv_gpu_utilization`, `nv_gpu_memory_total_bytes`, `nv_gpu_memory_used_bytes`, `nv_gpu_power_usage`, "
            "`nv_gpu_power_limit`, `nv_energy_consumption`": of(
                "metrics", *(f"series_of_a_gpu[{name}]" for name in (
                    "nv_gpu_utilization", "nv_gpu_memory_total_bytes", "nv_gpu_memory_used_bytes", "nv_gpu_power_usage",
                    "nv_gpu_power_limit", "nv_energy_consumption"))),
            "`nv_cache_*`": of("metrics", "series_that_has_no_meaning_here[nv_cache_num_hits_per_model]"),
            "`nv_inference_{request,queue,compute_input,compute_infer,compute_output}_summary_us`, "
            "`nv_inference_first_response_histogram_ms`": of(
                "metrics", *(f"summary[nv_inference_{name}_summary_us]" for name in (
                    "request", "queue", "compute_input", "compute_infer", "compute_output")),
                "histogram_nv_inference_first_response_histogram_ms"),
            "`nv_pinned_memory_pool_*`, `nv_model_load_duration_secs`": of(
                "metrics", "series_that_has_no_meaning_here[nv_pinned_memory_pool_total_bytes]",
                "series_that_has_no_meaning_here[nv_model_load_duration_secs]"),
            "`caravan_gateway_*`": of("metrics", "the_page_of_metrics"),
        },
    },
}

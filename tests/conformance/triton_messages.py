"""The messages of Triton's gRPC API, row by row: `number name type`, "r" for repeated, fields apart by semicolons.

Fields that came after release 23.04 are there too: adding them is wire compatible.
"""

SERVICE = {
    "ServerLiveRequest": "", "ServerReadyRequest": "", "ServerMetadataRequest": "",
    "ServerLiveResponse": "1 live bool",
    "ServerReadyResponse": "1 ready bool",
    "ModelReadyRequest": "1 name string; 2 version string",
    "ModelReadyResponse": "1 ready bool",
    "ServerMetadataResponse": "1 name string; 2 version string; 3 extensions r string",
    "ModelMetadataRequest": "1 name string; 2 version string",
    "ModelMetadataResponse":
        "1 name string; 2 versions r string; 3 platform string; 4 inputs r TensorMetadata; 5 outputs r TensorMetadata; "
        "6 properties map<string,string>",
    "ModelMetadataResponse.TensorMetadata": "1 name string; 2 datatype string; 3 shape r int64",
    "InferParameter": "1 bool_param bool; 2 int64_param int64; 3 string_param string; 4 double_param double; "
                      "5 uint64_param uint64",
    "InferTensorContents":
        "1 bool_contents r bool; 2 int_contents r int32; 3 int64_contents r int64; 4 uint_contents r uint32; "
        "5 uint64_contents r uint64; 6 fp32_contents r float; 7 fp64_contents r double; 8 bytes_contents r bytes",
    "ModelInferRequest":
        "1 model_name string; 2 model_version string; 3 id string; 4 parameters map<string,InferParameter>; "
        "5 inputs r InferInputTensor; 6 outputs r InferRequestedOutputTensor; 7 raw_input_contents r bytes",
    "ModelInferRequest.InferInputTensor":
        "1 name string; 2 datatype string; 3 shape r int64; 4 parameters map<string,InferParameter>; "
        "5 contents InferTensorContents",
    "ModelInferRequest.InferRequestedOutputTensor": "1 name string; 2 parameters map<string,InferParameter>",
    "ModelInferResponse":
        "1 model_name string; 2 model_version string; 3 id string; 4 parameters map<string,InferParameter>; "
        "5 outputs r InferOutputTensor; 6 raw_output_contents r bytes",
    "ModelInferResponse.InferOutputTensor":
        "1 name string; 2 datatype string; 3 shape r int64; 4 parameters map<string,InferParameter>; "
        "5 contents InferTensorContents",
    "ModelStreamInferResponse": "1 error_message string; 2 infer_response ModelInferResponse",
    "ModelConfigRequest": "1 name string; 2 version string",
    "ModelConfigResponse": "1 config ModelConfig",
    "ModelStatisticsRequest": "1 name string; 2 version string",
    "ModelStatisticsResponse": "1 model_stats r ModelStatistics",
    "ModelStatistics":
        "1 name string; 2 version string; 3 last_inference uint64; 4 inference_count uint64; "
        "5 execution_count uint64; 6 inference_stats InferStatistics; 7 batch_stats r InferBatchStatistics; "
        "8 memory_usage r MemoryUsage; 9 response_stats map<string,InferResponseStatistics>",
    "StatisticDuration": "1 count uint64; 2 ns uint64",
    "InferStatistics": "; ".join(f"{number} {name} StatisticDuration" for number, name in enumerate(
        ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss"), 1)),
    "InferBatchStatistics": "1 batch_size uint64; 2 compute_input StatisticDuration; "
                            "3 compute_infer StatisticDuration; 4 compute_output StatisticDuration",
    "InferResponseStatistics": "; ".join(f"{number} {name} StatisticDuration" for number, name in enumerate(
        ("compute_infer", "compute_output", "success", "fail", "empty_response", "cancel"), 1)),
    "MemoryUsage": "1 type string; 2 id int64; 3 byte_size uint64",
    "ModelRepositoryParameter": "1 bool_param bool; 2 int64_param int64; 3 string_param string; 4 bytes_param bytes",
    "RepositoryIndexRequest": "1 repository_name string; 2 ready bool",
    "RepositoryIndexResponse": "1 models r ModelIndex",
    "RepositoryIndexResponse.ModelIndex": "1 name string; 2 version string; 3 state string; 4 reason string",
    "RepositoryModelLoadRequest": "1 repository_name string; 2 model_name string; "
                                  "3 parameters map<string,ModelRepositoryParameter>",
    "RepositoryModelUnloadRequest": "1 repository_name string; 2 model_name string; "
                                    "3 parameters map<string,ModelRepositoryParameter>",
    "RepositoryModelLoadResponse": "", "RepositoryModelUnloadResponse": "",
    "SystemSharedMemoryStatusRequest": "1 name string",
    "SystemSharedMemoryStatusResponse": "1 regions map<string,RegionStatus>",
    "SystemSharedMemoryStatusResponse.RegionStatus": "1 name string; 2 key string; 3 offset uint64; 4 byte_size uint64",
    "SystemSharedMemoryRegisterRequest": "1 name string; 2 key string; 3 offset uint64; 4 byte_size uint64",
    "SystemSharedMemoryRegisterResponse": "",
    "SystemSharedMemoryUnregisterRequest": "1 name string", "SystemSharedMemoryUnregisterResponse": "",
    "CudaSharedMemoryStatusRequest": "1 name string",
    "CudaSharedMemoryStatusResponse": "1 regions map<string,RegionStatus>",
    "CudaSharedMemoryStatusResponse.RegionStatus": "1 name string; 2 device_id uint64; 3 byte_size uint64",
    "CudaSharedMemoryRegisterRequest": "1 name string; 2 raw_handle bytes; 3 device_id int64; 4 byte_size uint64",
    "CudaSharedMemoryRegisterResponse": "",
    "CudaSharedMemoryUnregisterRequest": "1 name string", "CudaSharedMemoryUnregisterResponse": "",
    "TraceSettingRequest": "1 settings map<string,SettingValue>; 2 model_name string",
    "TraceSettingRequest.SettingValue": "1 value r string",
    "TraceSettingResponse": "1 settings map<string,SettingValue>",
    "TraceSettingResponse.SettingValue": "1 value r string",
    "LogSettingsRequest": "1 settings map<string,SettingValue>",
    "LogSettingsRequest.SettingValue": "1 bool_param bool; 2 uint32_param uint32; 3 string_param string",
    "LogSettingsResponse": "1 settings map<string,SettingValue>",
    "LogSettingsResponse.SettingValue": "1 bool_param bool; 2 uint32_param uint32; 3 string_param string",
}

CONFIGURATION = {
    "ModelConfig":
        "1 name string; 2 platform string; 3 version_policy ModelVersionPolicy; 4 max_batch_size int32; "
        "5 input r ModelInput; 6 output r ModelOutput; 7 instance_group r ModelInstanceGroup; "
        "8 default_model_filename string; 9 cc_model_filenames map<string,string>; 10 metric_tags map<string,string>; "
        "11 dynamic_batching ModelDynamicBatching; 12 optimization ModelOptimizationPolicy; "
        "13 sequence_batching ModelSequenceBatching; 14 parameters map<string,ModelParameter>; "
        "15 ensemble_scheduling ModelEnsembling; 16 model_warmup r ModelWarmup; 17 backend string; "
        "18 model_operations ModelOperations; 19 model_transaction_policy ModelTransactionPolicy; "
        "20 batch_input r BatchInput; 21 batch_output r BatchOutput; "
        "23 model_repository_agents ModelRepositoryAgents; 24 response_cache ModelResponseCache; 25 runtime string; "
        "26 model_metrics ModelMetrics",
    "ModelInput":
        "1 name string; 2 data_type DataType; 3 format Format; 4 dims r int64; 5 reshape ModelTensorReshape; "
        "6 is_shape_tensor bool; 7 allow_ragged_batch bool; 8 optional bool; 9 is_non_linear_format_io bool",
    "ModelOutput": "1 name string; 2 data_type DataType; 3 dims r int64; 4 label_filename string; "
                   "5 reshape ModelTensorReshape; 6 is_shape_tensor bool; 7 is_non_linear_format_io bool",
    "ModelTensorReshape": "1 shape r int64",
    "ModelInstanceGroup":
        "1 name string; 2 count int32; 3 gpus r int32; 4 kind Kind; 5 profile r string; "
        "6 rate_limiter ModelRateLimiter; 7 passive bool; 8 secondary_devices r SecondaryDevice; 9 host_policy string",
    "ModelRateLimiter": "1 resources r Resource; 2 priority uint32",
    "ModelRateLimiter.Resource": "1 name string; 2 global bool; 3 count uint32",
    "ModelVersionPolicy": "1 latest Latest; 2 all All; 3 specific Specific",
    "ModelDynamicBatching":
        "1 preferred_batch_size r int32; 2 max_queue_delay_microseconds uint64; 3 preserve_ordering bool; "
        "4 priority_levels uint64; 5 default_priority_level uint64; 6 default_queue_policy ModelQueuePolicy; "
        "7 priority_queue_policy map<uint64,ModelQueuePolicy>",
    "ModelQueuePolicy": "1 timeout_action TimeoutAction; 2 default_timeout_microseconds uint64; "
                        "3 allow_timeout_override bool; 4 max_queue_size uint32",
    "ModelEnsembling": "1 step r Step; 2 max_inflight_requests uint32",
    "ModelEnsembling.Step":
        "1 model_name string; 2 model_version int64; 3 input_map map<string,string>; 4 output_map map<string,string>; "
        "5 model_namespace string",
    "ModelParameter": "1 string_value string",
    "ModelTransactionPolicy": "1 decoupled bool",
    "ModelResponseCache": "1 enable bool",
    "ModelOperations": "1 op_library_filename r string",
    "ModelRepositoryAgents": "1 agents r Agent",
    "ModelRepositoryAgents.Agent": "1 name string; 2 parameters map<string,string>",
    "ModelWarmup": "1 name string; 2 batch_size uint32; 3 inputs map<string,Input>; 4 count uint32",
    "ModelWarmup.Input": "1 data_type DataType; 2 dims r int64; 3 zero_data bool; 4 random_data bool; "
                         "5 input_data_file string",
    "BatchInput": "1 kind Kind; 2 target_name r string; 3 data_type DataType; 4 source_input r string",
    "BatchOutput": "1 target_name r string; 2 kind Kind; 3 source_input r string",
    "ModelOptimizationPolicy":
        "1 graph Graph; 2 priority ModelPriority; 3 cuda Cuda; 4 execution_accelerators ExecutionAccelerators; "
        "5 input_pinned_memory PinnedMemoryBuffer; 6 output_pinned_memory PinnedMemoryBuffer; "
        "7 gather_kernel_buffer_threshold uint32; 8 eager_batching bool",
    "ModelSequenceBatching":
        "1 max_sequence_idle_microseconds uint64; 2 control_input r ControlInput; 3 direct StrategyDirect; "
        "4 oldest StrategyOldest; 5 state r State; 6 iterative_sequence bool",
    "ModelMetrics": "1 metric_control r MetricControl",
    "ModelMetrics.MetricControl": "1 metric_identifier MetricIdentifier; 2 histogram_options HistogramOptions",
}

ENUMS = {
    "DataType": {"TYPE_INVALID": 0, "TYPE_BOOL": 1, "TYPE_UINT8": 2, "TYPE_UINT16": 3, "TYPE_UINT32": 4,
                 "TYPE_UINT64": 5, "TYPE_INT8": 6, "TYPE_INT16": 7, "TYPE_INT32": 8, "TYPE_INT64": 9, "TYPE_FP16": 10,
                 "TYPE_FP32": 11, "TYPE_FP64": 12, "TYPE_STRING": 13, "TYPE_BF16": 14},
    "ModelInput.Format": {"FORMAT_NONE": 0, "FORMAT_NHWC": 1, "FORMAT_NCHW": 2},
    "ModelInstanceGroup.Kind": {"KIND_AUTO": 0, "KIND_GPU": 1, "KIND_CPU": 2, "KIND_MODEL": 3},
    "ModelQueuePolicy.TimeoutAction": {"REJECT": 0, "DELAY": 1},
    "BatchInput.Kind": {"BATCH_ELEMENT_COUNT": 0, "BATCH_ACCUMULATED_ELEMENT_COUNT": 1,
                        "BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO": 2, "BATCH_MAX_ELEMENT_COUNT_AS_SHAPE": 3,
                        "BATCH_ITEM_SHAPE": 4, "BATCH_ITEM_SHAPE_FLATTEN": 5},
    "BatchOutput.Kind": {"BATCH_SCATTER_WITH_INPUT_SHAPE": 0},
    "ModelOptimizationPolicy.ModelPriority": {"PRIORITY_DEFAULT": 0, "PRIORITY_MAX": 1, "PRIORITY_MIN": 2},
}

# Client streaming, server streaming.
RPCS = {name: (False, False) for name in (
    "ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer", "ModelConfig",
    "ModelStatistics", "RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload", "SystemSharedMemoryStatus",
    "SystemSharedMemoryRegister", "SystemSharedMemoryUnregister", "CudaSharedMemoryStatus", "CudaSharedMemoryRegister",
    "CudaSharedMemoryUnregister", "TraceSetting", "LogSettings")} | {"ModelStreamInfer": (True, True)}

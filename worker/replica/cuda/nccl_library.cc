#include "worker/replica/cuda/nccl_library.h"

#include <nccl.h>

namespace caravan {

const DynamicLibrary& NcclLibrary() {
  static const DynamicLibrary library("libnccl.so.2", CARAVAN_NCCL_LIBRARY_FOLDER);
  return library;
}

}  // namespace caravan

using caravan::NcclLibrary;

extern "C" {

ncclResult_t ncclAllGather(const void* from, void* to, size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream) {
  CARAVAN_FORWARD(NcclLibrary(), ncclAllGather, from, to, count, type, comm, stream);
}

ncclResult_t ncclAllReduce(const void* from, void* to, size_t count, ncclDataType_t type,
                           ncclRedOp_t operation, ncclComm_t comm, cudaStream_t stream) {
  CARAVAN_FORWARD(NcclLibrary(), ncclAllReduce, from, to, count, type, operation, comm, stream);
}

ncclResult_t ncclCommAbort(ncclComm_t comm) { CARAVAN_FORWARD(NcclLibrary(), ncclCommAbort, comm); }

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* error) {
  CARAVAN_FORWARD(NcclLibrary(), ncclCommGetAsyncError, comm, error);
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  CARAVAN_FORWARD(NcclLibrary(), ncclCommInitRankConfig, comm, ranks, id, rank, config);
}

const char* ncclGetErrorString(ncclResult_t result) {
  CARAVAN_FORWARD(NcclLibrary(), ncclGetErrorString, result);
}

const char* ncclGetLastError(ncclComm_t comm) {
  CARAVAN_FORWARD(NcclLibrary(), ncclGetLastError, comm);
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  CARAVAN_FORWARD(NcclLibrary(), ncclGetUniqueId, id);
}

ncclResult_t ncclGroupStart() { CARAVAN_FORWARD(NcclLibrary(), ncclGroupStart); }

ncclResult_t ncclGroupEnd() { CARAVAN_FORWARD(NcclLibrary(), ncclGroupEnd); }

}  // extern "C"

// Token ids to hidden states, over a vocabulary that is split between ranks.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/device_stream.h"
#include "kernels/view.h"

namespace caravan {

// out[t] = table[token_ids[t] - vocab_begin] where that row exists, else zeros (another rank holds
// it, and the all-reduce that follows adds it).
void Embedding(std::span<const int32_t> token_ids,  // [tokens]
               ConstMatrixView table,               // [vocab shard, hidden]
               int32_t vocab_begin,                 // id of table's first row
               MatrixView out,                      // [tokens, hidden], any dtype
               DeviceStream stream);

// out[i] = x[rows[i]]: the rows whose logits are wanted.
void GatherRows(ConstMatrixView x,              // [tokens, hidden]
                std::span<const int32_t> rows,  // [n], each in [0, tokens)
                MatrixView out,                 // [n, hidden], x's dtype; not aliased
                DeviceStream stream);

}  // namespace caravan

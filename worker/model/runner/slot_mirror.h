// What the host knows of the slots that live on a device: enough to check a plan against them and
// to say what of them changes.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kernels/slot_tables.h"
#include "worker/engine/model_runner.h"
#include "worker/engine/step_plan.h"

namespace caravan {

// Takes one change of a slot's array on the device, as SlotUpdateBuffer::Add.
using SlotChange = std::function<void(SlotArray array, int32_t slot, int32_t offset,
                                      std::span<const int32_t> words)>;

// Plans come from the engine, perhaps over a wire: what contradicts the slots is an INTERNAL error,
// never a wild write.
class SlotMirror {
 public:
  explicit SlotMirror(const RunnerLimits& limits);

  // Empties all slots.
  void Clear();

  // Checks the plan and applies all of it that is not run: released slots, setups, blocks, token
  // ids. `change` is called for what the device must know before the step, in an order in which a
  // later change may overwrite an earlier one. After an error the mirror is of no more use until
  // Clear.
  absl::Status Apply(const StepPlan& plan, const SlotChange& change);

  // Of a slot that is in use.
  int32_t prompt_tokens(int32_t slot) const { return at(slot).prompt_tokens; }

 private:
  struct Slot {
    bool active = false;
    int32_t prompt_tokens = 0;
    int32_t known_tokens = 0;  // drawn ones of steps in flight included
    int32_t num_blocks = 0;
  };

  const Slot& at(int32_t slot) const { return slots_[static_cast<size_t>(slot)]; }
  Slot& at(int32_t slot) { return slots_[static_cast<size_t>(slot)]; }
  absl::Status CheckSlot(int32_t slot) const;
  absl::Status CheckPlan(const StepPlan& plan) const;
  absl::Status Setup(const SlotSetup& setup, const SlotChange& change);
  absl::Status BeginWork(const SlotWork& work, const SlotChange& change);
  absl::Status ChangeBlocks(const SlotWork& work, const SlotChange& change);
  absl::Status ReplaceTokens(const SlotWork& work, const SlotChange& change);

  const RunnerLimits limits_;
  std::vector<Slot> slots_;
};

// How the device draws for a slot; `lists` is filled with the slot's words of SlotTables::lists.
// Ids beyond the vocabulary are left out. INTERNAL where the lists are longer than any valid
// request's.
absl::Status MakeSlotSampling(const SlotSetup& setup, int32_t vocab_size, SlotSampling* sampling,
                              std::vector<int32_t>* lists);

}  // namespace caravan

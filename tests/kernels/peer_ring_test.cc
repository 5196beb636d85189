// A model of the ring of kernels/device/peer_ring.cuh. What a lane of a rank has heard of all
// others is a vector clock (Mattern, "Virtual Time and Global States of Distributed Systems",
// 1989), which does not depend on who comes first. So one run of the model speaks for all orders in
// which ranks, lanes and stores can come.
#include <gtest/gtest.h>

#include <algorithm>
#include <climits>
#include <map>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "kernels/device/peer_ring_rounds.h"

namespace caravan::cuda {
namespace {

constexpr int kLanes = 7;  // each of a warp of its own

struct Launch {
  int rounds = 1;
  std::vector<int> rounds_of_lane;  // all, or all but the last
};

class RingModel {
 public:
  RingModel(int world_size, int ring_rounds, bool fences)
      : world_size_(world_size), ring_rounds_(ring_rounds), fences_(fences) {}

  // How many packs are sent to a slot of which the sender can't know that it is empty. Every rank
  // makes these launches.
  int64_t Violations(const std::vector<Launch>& launches) {
    launches_ = &launches;
    lanes_.assign(Index(world_size_, 0), Lane());
    for (Lane& lane : lanes_) lane.clock.assign(lanes_.size(), 0);
    slots_.clear();
    violations_ = 0;
    for (bool any = true; any;) {
      any = false;
      for (int rank = 0; rank < world_size_; ++rank) {
        for (int number = 0; number < kLanes; ++number) {
          while (Step(rank, number)) any = true;
        }
        if (EndLaunch(rank)) any = true;
      }
    }
    for (const Lane& lane : lanes_) EXPECT_EQ(lane.launch, launches.size()) << "it stands still";
    return violations_;
  }

 private:
  enum Kind { kAddends, kSums };
  using Clock = std::vector<int>;
  struct Slot {
    int64_t round = -1;  // of the pack in it; -1: taken
    Clock sent;          // what its sender had heard
    // On its owner's clock: when it is sure that others see it empty.
    int emptied = 0;
  };
  struct Lane {
    size_t launch = 0;
    int64_t first_round = 0;
    int iteration = 0;
    int part = 0;  // of the iteration: sends, answers, takes
    Clock clock;
    std::vector<Slot*> unseen;  // emptied since the last fence
  };

  Lane& LaneOf(int rank, int number) { return lanes_[Index(rank, number)]; }
  static size_t Index(int rank, int number) {
    return static_cast<size_t>(rank) * kLanes + static_cast<size_t>(number);
  }
  Slot& SlotOf(int owner, int number, Kind kind, int64_t round, int from) {
    return slots_[{owner, number, kind, static_cast<int>(round % ring_rounds_), from}];
  }

  void Fence(int rank, int number) {
    Lane& lane = LaneOf(rank, number);
    const int now = ++lane.clock[Index(rank, number)];
    for (Slot* slot : lane.unseen) slot->emptied = now;
    lane.unseen.clear();
  }

  void SendToAll(int rank, int number, Kind kind, int64_t round) {
    Lane& lane = LaneOf(rank, number);
    ++lane.clock[Index(rank, number)];
    for (int to = 0; to < world_size_; ++to) {
      if (to == rank) continue;
      Slot& slot = SlotOf(to, number, kind, round, rank);
      violations_ += slot.round >= 0 || slot.emptied > lane.clock[Index(to, number)];
      slot.round = round;
      slot.sent = lane.clock;
    }
  }

  // False where one has not come yet.
  bool ReceiveFromAll(int rank, int number, Kind kind, int64_t round) {
    std::vector<Slot*> slots;
    for (int from = 0; from < world_size_; ++from) {
      if (from != rank) slots.push_back(&SlotOf(rank, number, kind, round, from));
    }
    for (const Slot* slot : slots) {
      if (slot->round < 0) return false;
    }
    Lane& lane = LaneOf(rank, number);
    for (Slot* slot : slots) {
      EXPECT_EQ(slot->round, round);
      for (size_t i = 0; i < lane.clock.size(); ++i) {
        lane.clock[i] = std::max(lane.clock[i], slot->sent[i]);
      }
      slot->round = -1;
      slot->emptied = INT_MAX;
      lane.unseen.push_back(slot);
    }
    return true;
  }

  // One part of an iteration of SumPartsKernel. False where the lane waits or has ended.
  bool Step(int rank, int number) {
    Lane& lane = LaneOf(rank, number);
    if (lane.launch == launches_->size()) return false;
    const Launch& launch = (*launches_)[lane.launch];
    if (lane.iteration == launch.rounds + 2 * kRingLag) return false;
    const int round = lane.iteration - lane.part * kRingLag;
    const bool has = round >= 0 && round < launch.rounds_of_lane[static_cast<size_t>(number)];
    const int64_t of_ring = lane.first_round + round;
    if (lane.part == 0) {
      const int since = IterationsSinceFirstFence(lane.iteration, number % kIterationsOfAFence);
      const bool is_due = since >= 0 && since % kIterationsOfAFence == 0;
      if (fences_ && lane.iteration < launch.rounds && is_due) Fence(rank, number);
      if (has) SendToAll(rank, number, kAddends, of_ring);
    } else if (has) {
      if (!ReceiveFromAll(rank, number, lane.part == 1 ? kAddends : kSums, of_ring)) return false;
      if (lane.part == 1) SendToAll(rank, number, kSums, of_ring);
    }
    lane.part = (lane.part + 1) % 3;
    lane.iteration += lane.part == 0;
    return true;
  }

  // All lanes have ended: what each has stored is performed, and all know what each has heard.
  bool EndLaunch(int rank) {
    const size_t launch = LaneOf(rank, 0).launch;
    if (launch == launches_->size()) return false;
    const int rounds = (*launches_)[launch].rounds;
    Clock heard(lanes_.size(), 0);
    for (int number = 0; number < kLanes; ++number) {
      if (LaneOf(rank, number).iteration < rounds + 2 * kRingLag) return false;
    }
    for (int number = 0; number < kLanes; ++number) {
      Fence(rank, number);
      const Clock& clock = LaneOf(rank, number).clock;
      for (size_t i = 0; i < heard.size(); ++i) heard[i] = std::max(heard[i], clock[i]);
    }
    for (int number = 0; number < kLanes; ++number) {
      Lane& lane = LaneOf(rank, number);
      lane.clock = heard;
      lane.first_round += rounds;
      lane.iteration = 0;
      ++lane.launch;
    }
    return true;
  }

  const int world_size_;
  const int ring_rounds_;
  const bool fences_;
  const std::vector<Launch>* launches_ = nullptr;
  std::vector<Lane> lanes_;
  std::map<std::tuple<int, int, int, int, int>, Slot> slots_;
  int64_t violations_ = 0;
};

// Sequences of three launches, of all pairs of lengths that matter and some other before them. Lane
// 0 is in every round; of the others some have nothing to do in a launch's last one.
std::vector<std::vector<Launch>> Sequences(int sparsely) {
  constexpr int kRounds[] = {1, 2, 5, 6, 8, 9, 10, 11, 12, 13, 14, 17, 26};
  std::mt19937 random(1);
  std::vector<std::vector<Launch>> sequences;
  int count = 0;
  for (const int first : kRounds) {
    for (const int second : kRounds) {
      if (count++ % sparsely != 0) continue;
      std::vector<Launch>& sequence = sequences.emplace_back();
      for (const int rounds : {kRounds[random() % std::size(kRounds)], first, second}) {
        Launch& launch = sequence.emplace_back(Launch{rounds, std::vector<int>(kLanes, rounds)});
        for (size_t lane = 1; lane < kLanes; ++lane) {
          launch.rounds_of_lane[lane] -= static_cast<int>(random() % 2);
        }
      }
    }
  }
  return sequences;
}

int64_t ViolatedSequences(int world_size, int ring_rounds, bool fences, int sparsely = 1) {
  int64_t violated = 0;
  for (const std::vector<Launch>& sequence : Sequences(sparsely)) {
    violated += RingModel(world_size, ring_rounds, fences).Violations(sequence) > 0;
  }
  return violated;
}

TEST(PeerRing, SlotsAreKnownToBeEmptyWhenTheyAreUsedAgain) {
  EXPECT_EQ(ViolatedSequences(3, kRingRounds, true), 0);
  EXPECT_EQ(ViolatedSequences(4, kRingRounds, true, 3), 0);
  EXPECT_EQ(ViolatedSequences(8, kRingRounds, true, 17), 0);
}

// The model finds what is wrong: a ring that is shorter by more than the one round that the bound
// of peer_ring.cuh has to spare, and one without fences.
TEST(PeerRing, AShorterRingOrOneWithoutFencesIsFoundOut) {
  EXPECT_GT(ViolatedSequences(3, kRingRounds - 2, true), 0);
  EXPECT_GT(ViolatedSequences(3, kRingRounds, false), 0);
}

}  // namespace
}  // namespace caravan::cuda

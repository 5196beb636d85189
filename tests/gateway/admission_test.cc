#include "gateway/admission.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace caravan {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class AdmissionTest : public testing::Test {
 protected:
  void Limit(int inflight, int queued, int per_client = 0) {
    AdmissionLimits limits;
    limits.max_inflight_requests = inflight;
    limits.max_queued_requests = queued;
    limits.max_requests_per_client = per_client;
    admission_ =
        std::make_unique<Admission>(limits, [this](uint64_t id) { promoted_.push_back(id); });
    admission_->SetOpen(true, now_);
  }
  std::string Admit(uint64_t id, int priority = 0,
                    Admission::Time deadline = Admission::Time::max(),
                    const std::string& client = "client") {
    const auto place = admission_->Admit({id, client, priority, deadline}, now_);
    if (!place.ok()) return std::string(place.status().message());
    return *place == Admission::Place::kInflight ? "inflight" : "queued";
  }
  void Leave(uint64_t id) { admission_->Leave(id, now_); }

  Admission::Time now_{std::chrono::seconds(1000)};
  std::vector<uint64_t> promoted_;
  std::unique_ptr<Admission> admission_;
};

TEST_F(AdmissionTest, QueuesBeyondTheInflightLimitAndRefusesBeyondTheQueue) {
  Limit(/*inflight=*/1, /*queued=*/2);
  EXPECT_EQ(Admit(1), "inflight");
  EXPECT_EQ(Admit(2), "queued");
  EXPECT_EQ(Admit(3), "queued");
  const std::string refusal = Admit(4);
  EXPECT_THAT(refusal, HasSubstr("2 requests wait (limit 2) and 1 are in flight"));
  Leave(1);
  EXPECT_THAT(promoted_, ElementsAre(2));
  EXPECT_EQ(Admit(5), "queued");
}

TEST_F(AdmissionTest, PromotesByPriorityThenArrival) {
  Limit(1, 10);
  Admit(1);
  Admit(2, /*priority=*/5);
  Admit(3, /*priority=*/-5);
  Admit(4, /*priority=*/5);
  for (const uint64_t id : {1, 3, 2}) Leave(id);
  EXPECT_THAT(promoted_, ElementsAre(3, 2, 4));
}

TEST_F(AdmissionTest, QueuesEverythingWhileClosed) {
  Limit(10, 2);
  admission_->SetOpen(false, now_);
  EXPECT_EQ(Admit(1), "queued");
  EXPECT_EQ(Admit(2), "queued");
  EXPECT_THAT(Admit(3), HasSubstr("the queue is full"));
  admission_->SetOpen(true, now_);
  EXPECT_THAT(promoted_, ElementsAre(1, 2));
}

TEST_F(AdmissionTest, ReturnsALostRequestToThePlaceOfItsArrival) {
  Limit(2, 10);
  Admit(1);
  Admit(2);
  Admit(3);
  admission_->SetOpen(false, now_);
  admission_->Requeue(2, now_);
  admission_->Requeue(1, now_);
  EXPECT_EQ(admission_->num_queued(), 3);
  admission_->SetOpen(true, now_);
  EXPECT_THAT(promoted_, ElementsAre(1, 2));
}

TEST_F(AdmissionTest, GivesEachClientItsShare) {
  Limit(10, 10, /*per_client=*/2);
  const auto forever = Admission::Time::max();
  EXPECT_EQ(Admit(1, 0, forever, "a"), "inflight");
  EXPECT_EQ(Admit(2, 0, forever, "a"), "inflight");
  EXPECT_THAT(Admit(3, 0, forever, "a"), HasSubstr("client a has 2 unfinished requests"));
  EXPECT_EQ(Admit(4, 0, forever, "b"), "inflight");
  Leave(1);
  EXPECT_EQ(Admit(5, 0, forever, "a"), "inflight");
}

TEST_F(AdmissionTest, RefusesAtOnceWhatWouldOutliveItsDeadlineInTheQueue) {
  Limit(1, 100);
  for (uint64_t id = 1; id <= 50; ++id) Admit(id);
  for (uint64_t id = 1; id <= 30; ++id) {  // a promotion a second
    now_ += std::chrono::seconds(1);
    Leave(id);
  }
  EXPECT_THAT(Admit(60, 0, now_ + std::chrono::seconds(2)),
              HasSubstr("the request's deadline is in"));
  EXPECT_EQ(Admit(61, 0, now_ + std::chrono::hours(1)), "queued");
}

TEST_F(AdmissionTest, ForgetsARequestThatGaveUpWaiting) {
  Limit(1, 1);
  Admit(1);
  Admit(2);
  Leave(2);
  EXPECT_EQ(Admit(3), "queued");
  Leave(1);
  EXPECT_THAT(promoted_, ElementsAre(3));
  Leave(77);  // unknown: nothing happens
  EXPECT_EQ(admission_->num_inflight(), 1);
}

}  // namespace
}  // namespace caravan

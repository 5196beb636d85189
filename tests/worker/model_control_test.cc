#include "worker/model_control.h"

#include <gtest/gtest.h>

#include <condition_variable>
#include <mutex>
#include <string>
#include <vector>

namespace caravan {
namespace {

using State = v1::WorkerModelStatus;

// Actions that take as long as the test wants, and a record of them.
class ModelControlTest : public ::testing::Test {
 protected:
  ModelControlTest()
      : control_({[this] { return Act("load"); }, [this] { return Act("unload"); }}) {}
  ~ModelControlTest() override {
    Let(1000);
    control_.Close();
    control_.Join();
  }

  absl::Status Act(const std::string& what) {
    std::unique_lock lock(mutex_);
    actions_.push_back(what);
    changed_.notify_all();
    changed_.wait(lock, [this] { return allowed_ > 0; });
    --allowed_;
    return what == "load" ? std::exchange(load_result_, absl::OkStatus()) : absl::OkStatus();
  }
  // So many actions may end.
  void Let(int actions) {
    const std::lock_guard lock(mutex_);
    allowed_ += actions;
    changed_.notify_all();
  }
  void AwaitActions(size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return actions_.size() >= count; });
  }
  std::vector<std::string> actions() {
    const std::lock_guard lock(mutex_);
    return actions_;
  }

  // A command's answer, once it has come.
  struct Answer {
    absl::Status status;
    bool came = false;
  };
  ModelControl::Done Into(Answer* answer) {
    return [this, answer](const absl::Status& status) {
      const std::lock_guard lock(mutex_);
      EXPECT_FALSE(answer->came) << "two answers";
      *answer = {status, true};
      changed_.notify_all();
    };
  }
  absl::Status Await(Answer* answer) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return answer->came; });
    return answer->status;
  }
  absl::Status Do(bool load, uint64_t number) {
    Answer answer;
    control_.Submit(load, number, Into(&answer));
    return Await(&answer);
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> actions_;
  int allowed_ = 0;
  absl::Status load_result_;
  ModelControl control_;
};

TEST_F(ModelControlTest, LoadsAtTheStartOnlyWhereItShould) {
  control_.Start(/*load=*/false, nullptr);
  EXPECT_EQ(control_.status().state(), State::UNLOADED);
  EXPECT_TRUE(control_.status().unload_wanted());
  EXPECT_EQ(control_.status().command(), 0U);
  EXPECT_TRUE(Do(/*load=*/false, 1).ok());
  EXPECT_TRUE(actions().empty());
}

TEST_F(ModelControlTest, CommandsRunOneAfterTheOtherAndWhatIsSoIsAnsweredAtOnce) {
  Answer start;
  control_.Start(/*load=*/true, Into(&start));
  AwaitActions(1);
  EXPECT_EQ(control_.status().state(), State::LOADING);
  Answer unload;
  Answer load;
  control_.Submit(false, 10, Into(&unload));
  EXPECT_TRUE(control_.superseded());
  control_.Submit(true, 11, Into(&load));
  Let(3);
  EXPECT_TRUE(Await(&start).ok());
  EXPECT_TRUE(Await(&unload).ok());
  EXPECT_TRUE(Await(&load).ok());
  EXPECT_EQ(actions(), (std::vector<std::string>{"load", "unload", "load"}));
  EXPECT_EQ(control_.status().state(), State::LOADED);
  EXPECT_TRUE(Do(true, 12).ok());
  EXPECT_TRUE(Do(true, 11).ok()) << "an older one that wants the same";
  EXPECT_EQ(actions().size(), 3U);
}

TEST_F(ModelControlTest, AnOlderCommandThatWantsTheOppositeIsAborted) {
  Let(100);
  control_.Start(/*load=*/false, nullptr);
  EXPECT_TRUE(Do(true, 20).ok());
  EXPECT_EQ(Do(false, 19).code(), absl::StatusCode::kAborted);
  EXPECT_EQ(Do(false, 20).code(), absl::StatusCode::kAborted);
  EXPECT_EQ(control_.status().state(), State::LOADED);
  EXPECT_TRUE(Do(false, 0).ok()) << "without a number it follows the last one";
  EXPECT_GT(control_.status().command(), 20U);
  EXPECT_EQ(control_.status().state(), State::UNLOADED);
}

TEST_F(ModelControlTest, ALoadThatFailsLeavesItsReasonAndCanBeTriedAgain) {
  Let(100);
  control_.Start(/*load=*/false, nullptr);
  load_result_ = absl::NotFoundError("no such file");
  EXPECT_EQ(Do(true, 5).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(control_.status().state(), State::UNLOADED);
  EXPECT_EQ(control_.status().reason(), "no such file");
  EXPECT_EQ(Do(true, 5).message(), "no such file") << "the same command";
  EXPECT_EQ(actions().size(), 1U);
  EXPECT_TRUE(Do(true, 6).ok());
  EXPECT_EQ(control_.status().state(), State::LOADED);
}

TEST_F(ModelControlTest, CloseAnswersWhatWaitsAndTellsOfALoadUnderWay) {
  control_.Start(/*load=*/false, nullptr);
  Answer load;
  Answer unload;
  control_.Submit(true, 1, Into(&load));
  EXPECT_EQ(control_.status().state(), State::LOADING) << "not as after a load that failed";
  AwaitActions(1);
  control_.Submit(false, 2, Into(&unload));
  EXPECT_TRUE(control_.Close());
  EXPECT_EQ(Do(true, 3).code(), absl::StatusCode::kUnavailable);
  Let(1);
  control_.Join();
  EXPECT_TRUE(Await(&load).ok());
  EXPECT_EQ(Await(&unload).code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace caravan

#include "gateway/triton/shared_memory.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <limits>

#include "absl/strings/str_cat.h"

namespace caravan {
namespace {

// A shared memory object of the test's own.
class Object {
 public:
  explicit Object(off_t size) : name_(absl::StrCat("/triton_test_", getpid(), "_", ++count)) {
    fd_ = shm_open(name_.c_str(), O_CREAT | O_EXCL | O_RDWR, 0600);
    EXPECT_EQ(ftruncate(fd_, size), 0);
  }
  ~Object() {
    close(fd_);
    shm_unlink(name_.c_str());
  }
  const std::string& name() const { return name_; }
  int fd() const { return fd_; }

 private:
  static inline int count = 0;
  const std::string name_;
  int fd_;
};

TEST(SharedMemory, ReadsAndWritesInsideItsRegion) {
  const Object object(100);
  SharedMemoryRegistry registry(true);
  ASSERT_TRUE(registry.Register("r", object.name(), 10, 50).ok());
  const auto region = *registry.Find("r");
  ASSERT_TRUE(region->Write(5, "hello").ok());
  EXPECT_EQ(*region->Read(5, 5), "hello");
  std::string direct(5, '\0');
  EXPECT_EQ(pread(object.fd(), direct.data(), 5, 15), 5);
  EXPECT_EQ(direct, "hello");
  const uint64_t most = std::numeric_limits<uint64_t>::max();
  EXPECT_TRUE(region->Read(0, 50).ok());
  for (const auto& [offset, size] : std::vector<std::pair<uint64_t, uint64_t>>{
           {0, 51}, {50, 1}, {1, most}, {most, 1}, {most, most}}) {
    EXPECT_EQ(region->Read(offset, size).status().code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_FALSE(region->Write(46, "hello").ok());
}

TEST(SharedMemory, AnObjectThatShrinksIsAnErrorAndNoCrash) {
  const Object object(8192);
  SharedMemoryRegistry registry(true);
  ASSERT_TRUE(registry.Register("r", object.name(), 0, 8192).ok());
  const auto region = *registry.Find("r");
  ASSERT_EQ(ftruncate(object.fd(), 10), 0);
  EXPECT_FALSE(region->Read(0, 8192).ok());
  EXPECT_FALSE(region->Write(100, "hello").ok());
  EXPECT_TRUE(region->Read(0, 10).ok());
}

TEST(SharedMemory, RegistersANameOnce) {
  const Object object(100);
  SharedMemoryRegistry registry(true);
  ASSERT_TRUE(registry.Register("r", object.name(), 0, 100).ok());
  EXPECT_EQ(registry.Register("r", object.name(), 0, 100).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(registry.Status(SharedMemoryKind::kSystem, "")->size(), 1u);
  EXPECT_EQ(registry.Status(SharedMemoryKind::kSystem, "x").status().code(),
            absl::StatusCode::kNotFound);
  registry.Unregister(SharedMemoryKind::kSystem, "unknown");
  const auto kept = *registry.Find("r");
  registry.Unregister(SharedMemoryKind::kSystem, "");
  EXPECT_FALSE(registry.Find("r").ok());
  EXPECT_TRUE(kept->Read(0, 100).ok()) << "a request that uses it keeps it";
}

TEST(SharedMemory, BoundsWhatANameCosts) {
  const Object object(100);
  SharedMemoryRegistry registry(true);
  const std::string longest(1024, 'r');
  EXPECT_TRUE(registry.Register(longest, object.name(), 0, 100).ok());
  EXPECT_EQ(registry.Register(longest + "r", object.name(), 0, 100).message(),
            "shared memory region name has 1025 bytes; at most 1024 are allowed");
  EXPECT_EQ(registry.Register("r", std::string(2000, '/') + object.name(), 0, 100).code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(SharedMemory, RefusesWhatItCantHave) {
  const Object object(100);
  SharedMemoryRegistry registry(true);
  const uint64_t most = std::numeric_limits<uint64_t>::max();
  EXPECT_FALSE(registry.Register("r", "/no_such_object_here", 0, 1).ok());
  EXPECT_FALSE(registry.Register("r", "/../etc/passwd", 0, 1).ok());
  EXPECT_FALSE(registry.Register("r", object.name(), 0, 101).ok());
  EXPECT_FALSE(registry.Register("r", object.name(), 101, 1).ok());
  EXPECT_FALSE(registry.Register("r", object.name(), most, most).ok());
  EXPECT_FALSE(registry.Register("r", object.name(), 0, 0).ok());
  EXPECT_FALSE(registry.Register("", object.name(), 0, 1).ok());
  EXPECT_NE(registry.Register("r", "/caravan_collectives", 0, 1).message().find("reserved"),
            std::string::npos);
  EXPECT_NE(registry.Register("r", "//caravan_collectives", 0, 1).message().find("reserved"),
            std::string::npos);
  EXPECT_EQ(SharedMemoryRegistry(false).Register("r", object.name(), 0, 1).code(),
            absl::StatusCode::kUnimplemented);
}

}  // namespace
}  // namespace caravan

// A leader's host that takes connections and then stalls: the follower gives the call up in time.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <future>
#include <string>
#include <thread>

#include "tests/worker/replica/replica_fixture.h"

namespace caravan {
namespace {

constexpr uint8_t kHeadersFrame = 1;
constexpr uint8_t kSettingsFrame = 4;

// Speaks as much HTTP/2 as lets a call begin, and grants no byte of a message: every write hangs.
class MuteServer {
 public:
  MuteServer() {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    EXPECT_EQ(bind(listener_, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(listen(listener_, 1), 0);
    EXPECT_EQ(getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size), 0);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] {
      connection_ = accept(listener_, nullptr, nullptr);
      Serve();
    });
  }
  ~MuteServer() {
    shutdown(listener_, SHUT_RDWR);
    shutdown(connection_, SHUT_RDWR);
    thread_.join();
    close(connection_);
    close(listener_);
  }

  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }
  // Ready once a second call has begun.
  std::future<void> second_call() { return second_call_.get_future(); }

 private:
  bool Read(void* to, size_t size) {
    return size == 0 || recv(connection_, to, size, MSG_WAITALL) == static_cast<ssize_t>(size);
  }

  // Until the follower closes the connection.
  void Serve() {
    std::array<char, 24> preface;
    if (!Read(preface.data(), preface.size())) return;
    // SETTINGS_INITIAL_WINDOW_SIZE = 0.
    constexpr std::array<uint8_t, 15> kNothing = {0, 0, 6, kSettingsFrame, 0, 0, 0, 0, 0, 0, 4, 0,
                                                  0, 0, 0};
    send(connection_, kNothing.data(), kNothing.size(), MSG_NOSIGNAL);
    int calls = 0;
    std::array<uint8_t, 9> frame;
    while (Read(frame.data(), frame.size())) {
      std::string payload(static_cast<size_t>(frame[0] << 16 | frame[1] << 8 | frame[2]), '\0');
      if (!Read(payload.data(), payload.size())) return;
      if (frame[3] == kHeadersFrame && ++calls == 2) second_call_.set_value();
      if (frame[3] == kSettingsFrame && (frame[4] & 1) == 0) {
        constexpr std::array<uint8_t, 9> kAck = {0, 0, 0, kSettingsFrame, 1, 0, 0, 0, 0};
        send(connection_, kAck.data(), kAck.size(), MSG_NOSIGNAL);
      }
    }
  }

  const int listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  std::atomic<int> connection_ = -1;
  int port_ = 0;
  std::thread thread_;
  std::promise<void> second_call_;
};

TEST(MuteLeader, IsCalledAgainThoughItLetsTheFirstMessageHang) {
  MuteServer leader;
  std::future<void> second_call = leader.second_call();
  const TestFollower follower(leader.address(), 1, 2);
  EXPECT_EQ(second_call.wait_for(std::chrono::seconds(20)), std::future_status::ready);
}

}  // namespace
}  // namespace caravan

// A blocking client that sends exactly the bytes it is given.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "common/status.h"

namespace caravan {

struct RawResponse {
  std::string head;  // status line and headers
  std::string body;  // without chunk frames
  int status = 0;
  bool complete = false;  // false: the connection ended first

  // The value of a header; "" where there is none.
  std::string Header(const std::string& name) const {
    const std::string lower = absl::AsciiStrToLower(head);
    const size_t begin = lower.find("\r\n" + absl::AsciiStrToLower(name) + ": ");
    if (begin == std::string::npos) return "";
    const size_t value = begin + name.size() + 4;
    return head.substr(value, head.find("\r\n", value) - value);
  }
};

class RawHttpClient {
 public:
  // `receive_bytes`: of the socket's buffer, 0 = the system's choice.
  explicit RawHttpClient(int port, int receive_bytes = 0) {
    fd_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CARAVAN_CHECK(fd_ >= 0);
    if (receive_bytes > 0) {
      setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_bytes, sizeof(receive_bytes));
    }
    const timeval patience = {.tv_sec = 20, .tv_usec = 0};
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CARAVAN_CHECK(connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);
  }
  ~RawHttpClient() { Close(); }
  RawHttpClient(const RawHttpClient&) = delete;
  RawHttpClient& operator=(const RawHttpClient&) = delete;

  // False when the server has closed.
  bool Send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(sent));
    }
    return true;
  }

  // The next response: of a Content-Length or in chunks.
  RawResponse Read(bool has_body = true) {
    RawResponse response;
    size_t end = std::string::npos;
    while ((end = input_.find("\r\n\r\n")) == std::string::npos) {
      if (!Fill()) return response;
    }
    response.head = input_.substr(0, end + 2);
    input_.erase(0, end + 4);
    CARAVAN_CHECK(absl::SimpleAtoi(response.head.substr(9, 3), &response.status), response.head);
    int64_t length = 0;
    if (!has_body) {
      response.complete = true;
    } else if (response.Header("Transfer-Encoding") == "chunked") {
      response.complete = ReadChunks(&response.body);
    } else if (absl::SimpleAtoi(response.Header("Content-Length"), &length)) {
      response.complete = ReadBytes(static_cast<size_t>(length), &response.body);
    } else {  // to the end of the connection
      while (Fill()) {
      }
      response.body = std::exchange(input_, "");
      response.complete = true;
    }
    return response;
  }

  RawResponse Ask(std::string_view bytes) {
    Send(bytes);
    return Read();
  }

  // One more piece of a chunked stream, "" at its end.
  std::string ReadChunk() {
    size_t end = 0;
    while ((end = input_.find("\r\n")) == std::string::npos) {
      if (!Fill()) return "";
    }
    const size_t size = std::stoul(input_.substr(0, end), nullptr, 16);
    input_.erase(0, end + 2);
    std::string chunk;
    ReadBytes(size + 2, &chunk);
    chunk.resize(chunk.size() - std::min<size_t>(2, chunk.size()));
    return chunk;
  }

  // The server has closed, and nothing more comes.
  bool AtEnd() { return input_.empty() && !Fill(); }

  void Close() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }
  // With a reset in place of an orderly end.
  void Reset() {
    const linger at_once = {.l_onoff = 1, .l_linger = 0};
    setsockopt(fd_, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
    Close();
  }

 private:
  bool Fill() {
    char buffer[64 << 10];
    const ssize_t received = recv(fd_, buffer, sizeof(buffer), 0);
    if (received <= 0) return false;
    input_.append(buffer, static_cast<size_t>(received));
    return true;
  }
  bool ReadBytes(size_t count, std::string* bytes) {
    while (input_.size() < count) {
      if (!Fill()) return false;
    }
    bytes->append(input_, 0, count);
    input_.erase(0, count);
    return true;
  }
  bool ReadChunks(std::string* body) {
    for (;;) {
      size_t end = 0;
      while ((end = input_.find("\r\n")) == std::string::npos) {
        if (!Fill()) return false;
      }
      const size_t size = std::stoul(input_.substr(0, end), nullptr, 16);
      input_.erase(0, end + 2);
      std::string frame;
      if (!ReadBytes(size, body) || !ReadBytes(2, &frame)) return false;
      if (size == 0) return true;
    }
  }

  int fd_ = -1;
  std::string input_;
};

}  // namespace caravan

#include "common/text_server.h"

#include <netdb.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"

namespace caravan {
namespace {

constexpr int kBacklog = 16;
constexpr size_t kMaxRequestBytes = 8192;
constexpr int kReadMs = 2000;   // for each part of a request
constexpr int kWriteMs = 5000;  // for each part of an answer

// A listening socket, or -1 with errno.
int Listen(const addrinfo& where) {
  const int fd = socket(where.ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return -1;
  const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (bind(fd, where.ai_addr, where.ai_addrlen) == 0 && listen(fd, kBacklog) == 0) return fd;
  const int error = errno;
  close(fd);
  errno = error;
  return -1;
}

int PortOf(int fd) {
  sockaddr_storage address = {};
  socklen_t size = sizeof(address);
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) return 0;
  char port[16] = {};
  getnameinfo(reinterpret_cast<sockaddr*>(&address), size, nullptr, 0, port, sizeof(port),
              NI_NUMERICSERV);
  return std::atoi(port);
}

std::string Response(std::string_view status, std::string_view type, std::string_view body) {
  return absl::StrCat("HTTP/1.1 ", std::string(status), "\r\nContent-Type: ", std::string(type),
                      "\r\nContent-Length: ", body.size(), "\r\nConnection: close\r\n\r\n",
                      std::string(body));
}

}  // namespace

absl::StatusOr<std::unique_ptr<TextServer>> TextServer::Start(const std::string& listen_address,
                                                              Page page) {
  const auto refused = [&](const std::string& why) {
    return absl::UnavailableError(absl::StrCat("can't serve ", page.path, " on ", listen_address,
                                               ": ", why, "; choose another address"));
  };
  const size_t colon = listen_address.rfind(':');
  if (colon == std::string::npos) return refused("it is not host:port");
  std::string host = listen_address.substr(0, colon);
  if (host.size() > 1 && host.front() == '[') host = host.substr(1, host.size() - 2);
  addrinfo hints = {};
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int failed = getaddrinfo(host.empty() ? nullptr : host.c_str(),
                                 listen_address.c_str() + colon + 1, &hints, &found);
  if (failed != 0) return refused(gai_strerror(failed));
  const int listener = Listen(*found);
  const int error = errno;
  freeaddrinfo(found);
  if (listener < 0) return refused(std::strerror(error));
  const int stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (stop < 0) {
    close(listener);
    return refused(std::strerror(errno));
  }
  return std::unique_ptr<TextServer>(
      new TextServer(listener, stop, PortOf(listener), std::move(page)));
}

TextServer::TextServer(int listener, int stop, int port, Page page)
    : listener_(listener), stop_(stop), port_(port), page_(std::move(page)) {
  thread_ = std::thread([this] { Serve(); });
}

TextServer::~TextServer() {
  eventfd_write(stop_, 1);
  thread_.join();
  close(listener_);
  close(stop_);
}

bool TextServer::Await(int fd, short events, int timeout_ms) const {
  pollfd waited[] = {{fd, events, 0}, {stop_, POLLIN, 0}};
  int ready = 0;
  do {
    ready = poll(waited, 2, timeout_ms);
  } while (ready < 0 && errno == EINTR);
  return ready > 0 && waited[1].revents == 0;
}

void TextServer::Serve() {
  while (Await(listener_, POLLIN, -1)) {
    const int connection = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (connection < 0) continue;  // gone again
    Answer(connection);
    close(connection);
  }
}

void TextServer::Answer(int connection) const {
  std::string request;
  while (request.find("\r\n\r\n") == std::string::npos) {
    if (request.size() > kMaxRequestBytes || !Await(connection, POLLIN, kReadMs)) return;
    char bytes[2048];
    const ssize_t count = recv(connection, bytes, sizeof(bytes), 0);
    if (count == 0 || (count < 0 && errno != EAGAIN && errno != EINTR)) return;
    if (count > 0) request.append(bytes, static_cast<size_t>(count));
  }
  const std::string_view line = std::string_view(request).substr(0, request.find("\r\n"));
  const std::string wanted = absl::StrCat("GET ", page_.path);
  const bool found = line.starts_with(wanted) && line.size() > wanted.size() &&
                     (line[wanted.size()] == ' ' || line[wanted.size()] == '?');
  const std::string answer =
      found ? Response("200 OK", page_.content_type, page_.write())
            : Response("404 Not Found", "text/plain", absl::StrCat("see ", page_.path, "\n"));
  for (std::string_view rest = answer; !rest.empty();) {
    if (!Await(connection, POLLOUT, kWriteMs)) return;
    const ssize_t count = send(connection, rest.data(), rest.size(), MSG_NOSIGNAL);
    if (count < 0 && errno != EAGAIN && errno != EINTR) return;
    if (count > 0) rest.remove_prefix(static_cast<size_t>(count));
  }
}

}  // namespace caravan

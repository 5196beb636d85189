// What the HTTP server can be told.
#pragma once

#include <cstdint>
#include <string>

namespace caravan {

struct HttpServerOptions {
  std::string listen_address;      // host:port; port 0 = a free one
  int num_threads = 2;             // that serve connections
  int num_large_body_threads = 2;  // that handle requests with large bodies

  int max_connections = 16384;  // more are answered with 503 and closed
  int max_header_bytes = 16 << 10;
  int max_body_bytes = 64 << 20;           // of a request, as sent and decompressed
  int64_t max_all_bodies_bytes = 1 << 30;  // of all requests at once; more are answered with 503
  int max_stream_buffer_bytes = 1 << 20;   // of one streamed answer, for a client that reads slowly

  int header_timeout_ms = 10000;       // from a request's first byte to the end of its headers
  int body_timeout_ms = 30000;         // for the body, and one second more for each 16 KiB of it
  int idle_timeout_ms = 75000;         // between two requests of a connection
  int slow_reader_timeout_ms = 30000;  // without a byte of the answer taken

  int send_buffer_bytes = 0;  // of each socket in the kernel; 0 = the system's choice
};

}  // namespace caravan

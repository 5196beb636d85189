// Which sources this program was built from.
#pragma once

namespace caravan {

// The version, and a fingerprint of the sources and CMake files that a worker is built from:
// "0.1.0+3f2a9c81d0e4". Options of the build (CUDA or not, which architectures, optimization) are
// not in it. Defined in a file that build_version.cmake writes.
extern const char kBuildVersion[];

}  // namespace caravan

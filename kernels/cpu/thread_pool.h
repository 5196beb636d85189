// The threads behind the CPU twins.
//
// Made for a machine that several ranks share: the caller takes parts like every other thread, so
// that it never waits for one that has not begun, and idle threads sleep after some microseconds.
// (OpenMP's teams wait for each of their threads, and spin meanwhile: where two processes with two
// threads each share two cores, a region took milliseconds.)
#pragma once

namespace caravan::cpu {

// Calls body(context, part) for each part of [0, parts), on at most `threads` threads, this one
// included; returns when all are done. One caller at a time has the threads: another one meanwhile
// does its parts alone, as does a body that calls this again.
void RunParts(int parts, int threads, void (*body)(void* context, int part), void* context);

}  // namespace caravan::cpu

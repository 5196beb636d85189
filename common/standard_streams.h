// Standard input, output and error of a process that may have been started without them.
#pragma once

namespace caravan {

// Holds the places of those that are closed, so that no file or connection that is opened later
// gets their number, and with it what is written to them. They stay unusable: reading and writing
// fail with EBADF, but for standard error, which swallows what it is told. First in main.
void HoldStandardStreams();

}  // namespace caravan

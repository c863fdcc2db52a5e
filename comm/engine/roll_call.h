// How ranks that know nothing of each other but a place in a store learn who the others are, and
// what each has to say: its address, say.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "comm/engine/limit.h"
#include "comm/store.h"

namespace lockstep::comm {

struct Attendant {
  int pid = 0;
  std::string processes;  // equal for ranks that see each other's processes: kernel, namespace
  std::string network;    // equal for ranks with the same network interfaces
  std::string host;       // its name, for messages
  std::string says;

  // "pid 71 on node5".
  std::string who() const;
};

// This process, saying `says`.
Attendant this_process(std::string says);

// Every rank calls it at the same place, with any bytes to say, at most 32 KiB. Returns what the
// ranks are and say, by rank. The texts travel up and down a tree: a rank asks the store at most
// ten times, whatever their number, and no key is left.
//
// `what`: what forms, in front of messages: "ucx". Throws TimeoutError naming the ranks that did
// not come, EnvironmentError where one died whose process can be seen from here. Where it throws on
// one rank, it does so on all, and the keys stay so that one that comes late learns why.
std::vector<Attendant> call_roll(Store& place, int rank, int size, const std::string& says,
                                 const Limit& limit, std::string_view what);

}  // namespace lockstep::comm

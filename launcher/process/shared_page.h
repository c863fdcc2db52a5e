// SharedPage: the agent's side of an AgentPage. The guardian maps it by its fork, ranks by a path.
#pragma once

#include <string>

#include "launcher/base/agent_page.h"
#include "launcher/process/memory_file.h"

namespace lockstep::launcher {

// The lease never ends until somebody sets it.
class SharedPage {
 public:
  // Throws EnvironmentError.
  SharedPage();
  ~SharedPage();
  SharedPage(const SharedPage&) = delete;
  SharedPage& operator=(const SharedPage&) = delete;

  // For ranks: as MemoryFile::path().
  std::string path() const { return file_.path(); }
  AgentPage& operator*() const { return *page_; }
  AgentPage* operator->() const { return page_; }

 private:
  MemoryFile file_{"lockstep-agent"};
  AgentPage* page_ = nullptr;
};

}  // namespace lockstep::launcher

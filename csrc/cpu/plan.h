// How a call is divided into tasks.
#pragma once

#include <cstdint>

#include "dispatch.h"

namespace fastrnn::cpu {

struct Plan {
  bool parallel;          // whether waking the threads pays off
  bool parallel_packing;  // whether they pack W_hh too
  bool packing;           // whether W_hh is packed as a whole
  int64_t tiles;          // of batch rows, in each group
  int64_t team_size;      // threads that divide each step of a group, instead of the batch
  bool projects_ahead;    // whether all threads compute the input projection before the steps
};

// W_hh is [G, gates * H, H]. `inputs` is the number of input features of a layer, or 0.
Plan make_plan(const ParamsWithResets& params, int64_t threads, int64_t column_blocks,
               int64_t gates = 1, int64_t inputs = 0);

// Reports that a member of a team had to wait for a CPU. For a while no team is formed: threads
// divide the batch, or one thread does all.
void note_oversubscription();

// How many tasks in a row a thread should run. torch would distribute them over all of its threads,
// even over more than there are CPUs.
int64_t tasks_per_thread(int64_t tasks, int64_t threads);

// A task of the linear operator is a part of the rows and of the columns.
struct LinearPlan {
  bool parallel;
  bool packing;  // whether the weight is packed as a whole
  int64_t row_parts, column_parts;
};

LinearPlan make_plan(const LinearParams& params, int64_t threads, int64_t column_blocks);

}  // namespace fastrnn::cpu

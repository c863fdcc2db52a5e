// The data of a run among the notes of its job: ranks that are started again must not go on with
// other data.
#pragma once

#include "train/run/job_notes.h"
#include "train/run/trainer.h"

namespace lockstep::train {

// Collective; `notes` (null: there are none) are rank 0's. Throws UsageError where the data are not
// those that an earlier epoch noted. May read all data.
void check_data_note(const JobNotes* notes, Trainer& trainer);
// For rank 0: notes what is known of the data by now.
void leave_data_note(const JobNotes& notes, Trainer& trainer);

}  // namespace lockstep::train

// Records a run's data among the notes of its job. Restarted ranks must not continue with other
// data.
#pragma once

#include "train/run/job_notes.h"
#include "train/run/trainer.h"

namespace lockstep::train {

// Collective. `notes` (null: none) are rank 0's. Throws UsageError if the data differ from those
// that an earlier epoch noted. May read all data.
void check_data_note(const JobNotes* notes, Trainer& trainer);
// For rank 0. Notes what is known of the data by now.
void leave_data_note(const JobNotes& notes, Trainer& trainer);

}  // namespace lockstep::train

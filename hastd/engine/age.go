package engine

import (
	"sync/atomic"
	"time"

	"hast/hastd/replica"
)

// metaTag stands for the metadata transaction, of which there is one at a time.
const metaTag replica.Tag = AppTags + SyncTags + replica.InternalTags

// ages notes since when each tag's disk operation has been under way: from when it is handed out, whether a thread or the
// kernel has begun with it or not.
type ages [metaTag + 1]atomic.Int64

func (a *ages) begin(j *job, now replica.Time) {
	t := j.tag
	if j.kind == jobMeta {
		t = metaTag
	}
	a[t].Store(int64(now))
}

// end returns when it began.
func (a *ages) end(t replica.Tag) replica.Time { return replica.Time(a[t].Swap(0)) }

// Oldest returns for how long the oldest disk operation has been under way; 0 if there is none. What waits for the
// lease is not under way.
func (e *Engine) Oldest() time.Duration {
	var first int64
	for i := range e.ages {
		if t := e.ages[i].Load(); t != 0 && (first == 0 || t < first) {
			first = t
		}
	}
	if first == 0 {
		return 0
	}
	return max(0, time.Duration(int64(e.now())-first))
}

// Package device defines what a front-end is: it gives Linux, or an NBD client,
// a block device, and passes the requests to a Sink. Sub-packages implement it;
// hastd/device/devicetest is the conformance suite that each of them passes.
package device

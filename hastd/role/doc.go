// Package role is the connect-time decision: given what two nodes say of
// themselves, who syncs whom and how much, or which conflict keeps them apart.
//
// It is one pure function of numbered rules, Decide, evaluated on both nodes
// with the arguments exchanged; the two verdicts are mirror images (rule 7 of docs/safety.md).
// docs/design/0002-handshake-verdicts.md tells the rules in words.
package role
